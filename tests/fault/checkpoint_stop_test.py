"""How a job is asked to save and to stop, and what it makes of other options when it goes on.

  signals   USR1 to one rank, to all, to mpiexec, TERM to the ranks: a checkpoint of that step, exit
            code 75, and a run that goes on to the same weights
  files     DIR/save, DIR/stop
  last      a request in the last step: done, exit code 0
  limit     no step boundary within checkpoint.stop_limit_s: the job ends by force
  options   other data, seed or batch are refused with both values; another lr is warned of
  adapter   adapter_only false: the checkpoint has the frozen weights too
"""

import json
import os
import signal
import time

from checkpoint_runs import (
    BAD_INPUT,
    DONE,
    ENDLESS,
    EXTRA_STEPS,
    LIMIT_S,
    STOPPED,
    Run,
    arguments_of,
    checkpoint_runs,
    read_index,
    request,
    send,
    up_to,
)
from jobs import wait_for

LIMIT_EXIT = 3
LAST_ROWS = 2000  # in a step of a second or so
RANKS = 2


def check_stopped(run, job):
    code, seconds = job.finish(LIMIT_S)
    printed = job.output()
    assert code == STOPPED, f"exit code {code}\n{printed}"
    steps = [step["step"] for step in run.events("step")]
    assert steps == list(range(1, len(steps) + 1)), steps
    assert run.steps_saved()[-1] == len(steps), (run.steps_saved(), len(steps))
    end = run.events()[-1]
    assert (end["event"], end["status"], end["steps"]) == ("end", "stopped", len(steps)), end
    checkpoint = run.events("checkpoint")[-1]
    assert checkpoint["step"] == len(steps) and checkpoint["stall_s"] >= 0, checkpoint
    files = list(run.checkpoint(len(steps)).iterdir())
    listed = json.loads((run.checkpoint(len(steps)) / "manifest.json").read_text())["files"]
    assert checkpoint["bytes"] == sum(file["bytes"] for file in listed), checkpoint
    assert len(files) == len(listed) + 2, files
    assert not (run.output / "adapter").exists(), "a stopped run wrote its result"
    return seconds


def finish_and_compare(runs, run):
    """Some more steps, then done: as a run that was never stopped."""
    num_steps = run.steps_done() + EXTRA_STEPS
    run.finish(RANKS, train__max_steps=num_steps)
    plain = Run(runs, "plain", "lora", **up_to(num_steps))
    plain.finish(RANKS)
    assert run.weights() == plain.weights()
    assert run.computed_steps() == plain.computed_steps()


def to_ranks(number, ranks):
    def ask(_job, pids):
        for rank in ranks:
            send(pids[rank], number)
    return ask


def to_mpiexec(number):
    return lambda job, _pids: send(job.process.pid, number)


REQUESTS = {
    "USR1 to rank 1": (to_ranks(signal.SIGUSR1, [1]), {}),
    "USR1 to all ranks": (to_ranks(signal.SIGUSR1, range(RANKS)), {}),
    "USR1 to mpiexec": (to_mpiexec(signal.SIGUSR1), {}),
    "TERM to the ranks": (to_ranks(signal.SIGTERM, range(RANKS)), {}),
    "a signal of choice": (to_ranks(signal.SIGUSR2, [0]), {"checkpoint__signals": "USR2"}),
}


def signals(runs):
    run = Run(runs, "stopped", "lora", **ENDLESS)
    for name, (ask, changes) in REQUESTS.items():
        before = run.steps_done()
        with run.start(RANKS, **changes) as job:
            pids = job.rank_pids(LIMIT_S)
            run.wait_for_step(job, before + 3)
            ask(job, pids)
            seconds = check_stopped(run, job)
        print(f"{name}: stopped after step {run.steps_done()}, {seconds:.2f} s after the request")
    finish_and_compare(runs, run)
    assert len(run.events("resume")) == len(REQUESTS)
    print("then went on to the end: same weights, same steps")


def files(runs):
    run = Run(runs, "asked", "lora", **ENDLESS)
    with run.start(RANKS) as job:
        run.wait_for_step(job, 3)
        request(run, "save")
        run.wait_for_checkpoint(job)
        assert not (run.output / "save").exists(), "the request was not taken"
        saved = run.steps_saved()[-1]
        run.wait_for_step(job, saved + 3)
        assert run.steps_saved() == [saved], "saved more than once"
        request(run, "stop")
        check_stopped(run, job)
    assert (run.output / "stop").exists(), "the request to stop is gone before the next run"
    assert run.steps_done() > saved + 2
    request(run, "save")  # of a run that has ended: forgotten as well
    finish_and_compare(runs, run)
    assert not (run.output / "stop").exists() and not (run.output / "save").exists()
    assert len(run.events("checkpoint")) == 2, run.events("checkpoint")
    print(f"save after step {saved}, stop after {run.events('resume')[0]['step']}, then done")


def last(runs):
    """The only step of the run is its last one, and long; the signal comes before its end."""
    run = Run(runs, "last", "lora", train__max_steps=1, train__global_batch=LAST_ROWS,
              train__micro_batch=1)
    with run.start(RANKS) as job:
        for pid in job.rank_pids(LIMIT_S):
            # Once the handler is there; until then the signal would end the process.
            wait_for(lambda pid=pid: catches(pid, signal.SIGUSR1), LIMIT_S, "a handler")
            send(pid, signal.SIGUSR1)
        code, _ = job.finish(LIMIT_S)
        assert code == DONE, f"exit code {code}\n{job.output()}"
    assert run.events()[-1]["status"] == "done" and run.weights()
    print("a request in the last step: exit code 0")


def catches(pid, number):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        caught = next(line for line in file if line.startswith("SigCgt"))
    return int(caught.split()[1], 16) >> (number - 1) & 1


def limit(runs):
    """One rank stands still, so that no boundary is reached."""
    run = Run(runs, "limit", "lora", **ENDLESS, checkpoint__stop_limit_s=2)
    with run.start(RANKS) as job:
        pids = job.rank_pids(LIMIT_S)
        run.wait_for_step(job, 3)
        os.kill(pids[1], signal.SIGSTOP)
        time.sleep(0.2)
        begin = time.monotonic()
        send(pids[0], signal.SIGUSR1)
        code, _ = job.finish(LIMIT_S)
        seconds = time.monotonic() - begin
        printed = job.output()
    assert code == LIMIT_EXIT, f"exit code {code}\n{printed}"
    assert "checkpoint.stop_limit_s" in printed, printed
    assert seconds >= 1.5, f"ended after {seconds:.2f} s, before the limit"
    print(f"no step boundary within 2 s: ended after {seconds:.1f} s with exit code {code}")


def options(runs):
    source = Run(runs, "source", "lora", train__max_steps=20, checkpoint__interval=10)
    source.finish(RANKS)
    checkpoint = source.checkpoint(10)
    rows = json.loads(runs.data.read_text())
    rows[3]["output"] += " changed"
    other = runs.work / "other.json"
    other.write_text(json.dumps(rows))
    changes = {
        "train.seed": (7, "42"), "train.global_batch": (4, "5"), "adapter.r": (2, "4"),
        "data.max_length": (20, "28"), "data.shuffle": ("false", "true"),
        "data.path": (other, "SHA-256"),
    }
    for name, (value, before) in changes.items():
        run = Run(runs, "changed", "lora", checkpoint__resume=checkpoint, train__max_steps=20,
                  **{name.replace(".", "__"): value})
        printed = run.finish(RANKS, BAD_INPUT)
        errors = [line for line in printed.splitlines() if "error: " in line]
        assert len(errors) == 1, printed
        expected = "other.json" if name == "data.path" else name
        assert expected in errors[0] and before in errors[0] and str(value) in errors[0], errors[0]
        assert not run.output.exists() or not any(run.output.iterdir()), "left files behind"
    run = Run(runs, "lr", "lora", checkpoint__resume=checkpoint, train__max_steps=20,
              train__lr=0.5)
    printed = run.finish(RANKS)
    warnings = [line for line in printed.splitlines() if "train.lr" in line and "0.5" in line]
    assert warnings and "0.001" in warnings[0], printed
    assert run.weights() != source.weights()
    moved = Run(runs, "moved", "lora", checkpoint__resume=checkpoint, train__max_steps=20,
                data__path=other)
    other.write_text(runs.data.read_text())
    moved.finish(RANKS)
    assert moved.weights() == source.weights(), "the same data under another name"
    print(f"refused with both values: {', '.join(changes)}; train.lr is warned of")


def adapter(runs):
    run = Run(runs, "all", "lora", train__max_steps=6, checkpoint__interval=3,
              checkpoint__adapter_only="false")
    run.finish(RANKS)
    small = Run(runs, "small", "lora", train__max_steps=6, checkpoint__interval=3)
    small.finish(RANKS)
    both, own = read_index(run.checkpoint(3)), read_index(small.checkpoint(3))
    frozen = "parameters/model.layers.0.self_attn.q_proj.weight"
    assert frozen in both and frozen not in own
    assert own.keys() < both.keys()
    assert all((own[name] == both[name]).all() for name in own)
    names = {name.rpartition("/")[2] for name in own}
    assert all(name.startswith("base_model.model.") for name in names), names
    again = Run(runs, "again", "lora", train__max_steps=6, checkpoint__resume=run.checkpoint(3))
    again.finish(3)
    print(f"adapter_only: {len(own)} arrays, with the frozen weights {len(both)}")


CASES = {"signals": signals, "files": files, "last": last, "limit": limit, "options": options,
         "adapter": adapter}


def main():
    arguments = arguments_of(__doc__, case=CASES).parse_args()
    with checkpoint_runs(arguments, LAST_ROWS if arguments.case == "last" else 20) as runs:
        CASES[arguments.case](runs)


if __name__ == "__main__":
    main()

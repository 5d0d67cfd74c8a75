"""Jobs that are killed with SIGKILL at random moments, one rank or all of them, about every second
time while a checkpoint is being written, and resumed until they are done.

The final weights must equal those of a run that nobody disturbed byte for byte, run.jsonl must
hold every step once with the same numbers, run.h5 too, and whatever verified when the job was
killed must be what the next one goes on from.

    checkpoint_kill_test.py lora|full --ranks 2 [--kills 50] --vaccine ... --mpiexec ...
"""

import json
import random
import shutil
import signal
import time

import h5py
from checkpoint_runs import (
    DONE,
    LIMIT_S,
    KINDS,
    Run,
    arguments_of,
    checkpoint_runs,
    send,
    verifies,
)

NUM_STEPS = 2000
OPTIONS = {"train__max_steps": NUM_STEPS, "checkpoint__interval": 10}


class KilledRun:
    """A run that is killed again and again; `seconds`: what its steps take undisturbed."""

    def __init__(self, run, ranks, seconds, rng):
        self.run, self.ranks, self.seconds, self.rng = run, ranks, seconds, rng
        self.within_checkpoints = self.before_checkpoints = 0
        self.newest = None  # step of the checkpoint that the next job has to find

    def job(self, kill):
        """One job; True when it was killed, False when it was done before."""
        num_resumes = len(self.run.events("resume"))
        with self.run.start(self.ranks) as job:
            if not (kill and self.wait_for_the_moment(job)):
                code, _ = job.finish(LIMIT_S)
                assert code == DONE, f"exit code {code}\n{job.output()}"
                self.check_resume(num_resumes, job.output())
                return False
            pids = job.rank_pids(LIMIT_S)
            self.within_checkpoints += any(self.run.checkpoints.glob(".step-*.writing"))
            for pid in pids if self.rng.random() < 0.5 else [self.rng.choice(pids)]:
                send(pid, signal.SIGKILL)
            code, _ = job.finish(LIMIT_S)
            assert code != DONE, job.output()
            self.check_resume(num_resumes, job.output())
        saved = self.run.steps_saved()
        self.newest = saved[-1] if saved else None
        self.before_checkpoints += not saved
        # Published means complete, whatever happens then.
        for step in saved:
            assert verifies(self.run.checkpoint(step)), f"step {step} was published half written"
        return True

    def wait_for_the_moment(self, job):
        """Once in four during the start, else a while after the job's first step, or then a little
        after a checkpoint has begun. False when the job was done before."""
        if self.rng.random() < 0.25:
            job.rank_pids(LIMIT_S)
            time.sleep(self.rng.uniform(0, 1))
            return job.process.poll() is None
        steps_before = self.run.log_bytes()
        into_checkpoint = self.rng.random() < 0.6
        moment = None
        while job.process.poll() is None:
            if moment is None and self.run.log_bytes() > steps_before:
                moment = time.monotonic() + self.rng.uniform(0, self.seconds / 4)
            if moment is not None and time.monotonic() >= moment:
                if not into_checkpoint:
                    return True
                if any(self.run.checkpoints.glob(".step-*.writing")):
                    time.sleep(self.rng.uniform(0, 0.01))
                    return True
            time.sleep(0.0005)
        return False

    def check_resume(self, num_resumes, printed):
        """The job went on from the newest checkpoint, if it came that far."""
        resumes = self.run.events("resume")
        assert "rejected" not in printed, printed
        if len(resumes) == num_resumes:
            # Killed before it had looked, or begun anew.
            assert self.newest is None or self.run.steps_done() >= self.newest, printed
            return
        assert resumes[-1]["step"] == self.newest, (resumes[-1], self.newest, printed)
        assert resumes[-1]["rejected"] == [], resumes[-1]


def check_equal(run, undisturbed):
    assert run.weights() == undisturbed.weights(), "the final weights differ"
    steps, expected = run.computed_steps(), undisturbed.computed_steps()
    assert [s["step"] for s in steps] == list(range(1, NUM_STEPS + 1)), "steps of run.jsonl"
    assert steps == expected, next(pair for pair in zip(steps, expected) if pair[0] != pair[1])
    assert run.events()[-1] | {"seconds": 0} == {"event": "end", "status": "done",
                                                 "steps": NUM_STEPS, "seconds": 0}
    with h5py.File(run.output / "run.h5") as file:
        assert list(file["metrics/train"]["step"]) == list(range(1, NUM_STEPS + 1)), "run.h5"
        assert list(file["metrics/train"]["loss"]) == [s["loss"] for s in expected], "run.h5"
    left = [path.name for path in run.checkpoints.iterdir()]
    assert left and all(name.startswith("step-") for name in left), left


def kill_often(runs, kind, ranks, num_kills, seed):
    undisturbed = Run(runs, f"undisturbed-{kind}-{ranks}", kind, train__max_steps=NUM_STEPS)
    undisturbed.finish(ranks)
    seconds = sum(step["step_s"] for step in undisturbed.events("step"))
    rng = random.Random(seed)
    kills = finished = within = before = 0
    while kills < num_kills:
        run = Run(runs, f"killed-{kind}-{ranks}", kind, **OPTIONS)
        killed = KilledRun(run, ranks, seconds, rng)
        while killed.job(kills < num_kills):
            kills += 1
        check_equal(run, undisturbed)
        finished += 1
        within += killed.within_checkpoints
        before += killed.before_checkpoints
        shutil.rmtree(run.output)
    print(json.dumps({"kind": kind, "ranks": ranks, "kills": kills, "seed": seed,
                      "within a checkpoint": within, "before the first": before,
                      "runs finished": finished, "steps_s": round(seconds, 2)}), flush=True)


def main():
    parser = arguments_of(__doc__, kind=KINDS)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with checkpoint_runs(arguments) as runs:
        kill_often(runs, arguments.kind, arguments.ranks, arguments.kills, arguments.seed)


if __name__ == "__main__":
    main()

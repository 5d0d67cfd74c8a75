"""Ranks of the real program that stop, die or run out of memory in the middle of a run: the job
ends, with a message that says which rank it was, and leaves nothing running.

  stop     SIGSTOP: exit code 3 after the timeout, the rank is named, the others leave records
  kill     SIGKILL: the job ends at once
  memory   an address space that ends where it is: the rank says so and ends the job
"""

import contextlib
import json
import os
import re
import resource
import signal
import sys
import tempfile
from pathlib import Path

from jobs import Job, launcher_arguments, launcher_of, wait_for

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
from common import GLOBAL_BATCH, MAX_LENGTH, ProgramRuns  # noqa: E402

NUM_RANKS = 3
VICTIM = 1
TIMEOUT_S = 5
LIMIT_S = 60  # of the end of a job; far below the timeout of 600 s that a run has by default


def check(statement, what, output):
    if not statement:
        sys.exit(f"FAILED {what}\n{output}")


def steps_done(output_directory):
    with contextlib.suppress(FileNotFoundError):
        lines = (output_directory / "run.jsonl").read_text().splitlines()
        return sum('"event": "step"' in line or '"event":"step"' in line for line in lines)
    return 0


def start(runs, arguments, name):
    """A run of more steps than it will come to, under way when this returns."""
    output = runs.work / name
    options = {"model.path": runs.base, "data.path": runs.data, "data.template": "plain",
               "data.max_length": MAX_LENGTH, "train.global_batch": GLOBAL_BATCH,
               "train.epochs": 100000, "runtime.threads": 1, "runtime.device": "cpu",
               "runtime.timeout_s": TIMEOUT_S, "output.dir": output}
    flags = [part for option, value in options.items() for part in (f"--{option}", value)]
    return Job(launcher_of(arguments), NUM_RANKS, [arguments.vaccine, "align", *flags]), output


def under_way(job, output):
    """Process ids of the ranks of a run that has made steps."""
    pids = job.rank_pids()
    wait_for(lambda: steps_done(output) >= 3 or job.process.poll() is not None, LIMIT_S,
             "a run makes steps")
    check(job.process.poll() is None, "the run ended by itself", job.output())
    return pids


def stop(runs, arguments):
    job, output = start(runs, arguments, "stop")
    with job:
        pids = under_way(job, output)
        os.kill(pids[VICTIM], signal.SIGSTOP)
        code, seconds = job.finish(LIMIT_S)
        printed = job.output()
    check(code == 3, f"exit code {code}, expected 3", printed)
    alarms = [line for line in printed.splitlines() if "no answer within" in line]
    check(len(alarms) == 1, f"{len(alarms)} alarms, expected 1", printed)
    pattern = (rf"no answer within {TIMEOUT_S} s: \w+ #\d+ of group [\w ]+ \(\d+ bytes\) at step "
               rf"\d+.*: rank {VICTIM} of {NUM_RANKS} \(host \S+, pid {pids[VICTIM]}\) does not "
               r"respond; waiting: ")
    check(re.search(pattern, alarms[0]), f"the alarm lacks {pattern}", printed)
    for rank in range(NUM_RANKS):
        files = list(output.rglob(f"watchdog-rank-{rank:05d}.txt"))
        check(len(files) == (rank != VICTIM), f"{len(files)} records of rank {rank}", printed)
        for file in files:
            check("waiting" in file.read_text(), f"{file.name} shows no wait", file.read_text())
    for line in (output / "run.jsonl").read_text().splitlines():
        json.loads(line)
    print(f"stopped rank: ended after {seconds:.1f} s with a timeout of {TIMEOUT_S} s\n{alarms[0]}")


def kill(runs, arguments):
    job, output = start(runs, arguments, "kill")
    with job:
        pids = under_way(job, output)
        os.kill(pids[VICTIM], signal.SIGKILL)
        code, seconds = job.finish(LIMIT_S)
        printed = job.output()
    check(code != 0, f"exit code {code}, expected another", printed)
    check("no answer within" not in printed, "the watchdog had to find out", printed)
    check("signal 9" in printed, "nobody says that a rank was killed", printed)
    print(f"killed rank: ended after {seconds:.2f} s with exit code {code}")


def memory(runs, arguments):
    job, output = start(runs, arguments, "memory")
    with job:
        pids = under_way(job, output)
        # No page more than it has: the next tensor that needs one fails.
        size = int(Path(f"/proc/{pids[VICTIM]}/statm").read_text().split()[0])
        limit = size * resource.getpagesize()
        resource.prlimit(pids[VICTIM], resource.RLIMIT_AS, (limit, limit))
        os.kill(pids[VICTIM], signal.SIGUSR1)  # a checkpoint needs memory, wherever the run is
        code, seconds = job.finish(LIMIT_S)
        printed = job.output()
    check(code == 1, f"exit code {code}, expected 1", printed)
    # In a pass the rank ends the job; at a checkpoint the ranks agree that there is none.
    check(f"[rank {VICTIM}/{NUM_RANKS}] error: " in printed
          or f"could not be written: rank {VICTIM}: " in printed, "the rank has no name", printed)
    print(f"rank out of memory: ended after {seconds:.2f} s with exit code {code}\n"
          + "\n".join(line for line in printed.splitlines() if "error" in line))


CASES = {"stop": stop, "kill": kill, "memory": memory}


def main():
    parser = launcher_arguments(__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--vaccine", required=True, type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        runs = ProgramRuns(Path(work), arguments.vaccine, num_rows=20)
        CASES[arguments.case](runs, arguments)


if __name__ == "__main__":
    main()

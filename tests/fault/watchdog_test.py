"""How jobs end whose ranks wait for one that does not come (tests/mpi/watched_rank.cpp): with exit
code 3 and one message that names the rank and the call, and with the records of the ranks that
live; and that jobs whose ranks are only slow, late or stopped for a while raise no alarm."""

import re
import sys
import tempfile
from pathlib import Path

from jobs import Job, launcher_arguments, launcher_of

LIMIT_S = 60  # of a job that should take a few seconds
ALARM = "no answer within 1.5 s"

# Mode: (ranks, what the message says, ranks that leave records, what these name).
ALARMS = {
    "absent": (3, [r"all_gather #3 of group frozen \(12000 bytes\) at step 3, pass 1",
                   r"rank 2 of 3 \(host \S+, pid \d+\) has not come: it does not wait, it is at "
                   r"step 3, pass 1; its last call of this group is all_gather #2",
                   r"waiting: ranks 0 1"], [0, 1, 2], "frozen, 0-2, step 2, pass 1"),
    "stopped": (3, [r"all_gather #2 of group frozen",
                    r"rank 2 of 3 \(host \S+, pid \d+\) does not respond; waiting: ranks 0 1"],
                [0, 1], "all_gather"),
    "elsewhere": (3, [r"barrier #1 of group left",
                      r"rank 2 of 3 .* has not come: it waits in barrier #1 of group right",
                      r"waiting: ranks 0 1"], [0, 1, 2], "barrier"),
    "differs": (3, [r"ranks disagree on call #2 of group world",
                    r"all_reduce of 1 elements, 8 bytes, on ranks 0 1",
                    r"barrier of 0 elements, 0 bytes, on rank 2"], [0, 1, 2], "world, 0-2"),
    "part": (4, [r"barrier #1 of group half", r"rank 3 of 4 .* does not respond; waiting: rank 2",
                 r"in barrier #1 of group world: ranks 0 1"], [0, 1, 2], "half"),
    "memory": (2, [r"reduce_scatter #1 of group gradients on the node \(256 bytes\)",
                   r"rank 1 of 2 .* has not come"], [0, 1], "gradients on the node"),
    "reading": (3, [r"read #1 of group gradients read on the node",
                    r"rank 2 of 3 .* has not come", r"waiting: ranks 0 1"], [0, 1, 2],
                "gradients read on the node"),
    "text": (2, [r"all_gather_text #\d+ of group world calls", r"rank 1 of 2 .* has not come"],
             [0, 1], "world calls"),
    "end": (3, [r"barrier #1 of group end of the run", r"rank 2 of 3 .* has not come",
                r"waiting: ranks 0 1"], [0, 1, 2], "end of the run"),
}
# Mode: (ranks, what is printed or None).
QUIET = {
    "slow": (3, None),
    "late": (3, r"took longer than 1.5 s and has ended: going on"),
    "continued": (2, None),
}


def check(statement, what, output):
    if not statement:
        sys.exit(f"FAILED {what}\n{output}")


def check_alarm(job, mode, directory):
    _, expected, writers, named = ALARMS[mode]
    code, seconds = job.finish(LIMIT_S)
    output = job.output()
    check(code == 3, f"exit code {code}, expected 3", output)
    check(output.count(ALARM) == 1, f"{output.count(ALARM)} alarms, expected 1", output)
    message = next(line for line in output.splitlines() if ALARM in line)
    for pattern in expected:
        check(re.search(pattern, message), f"the message lacks {pattern}", output)
    files = sorted(path.name for path in directory.iterdir())
    check(files == [f"watchdog-rank-{rank:05d}.txt" for rank in writers], f"records {files}",
          output)
    for name in files:
        text = (directory / name).read_text()
        check(message.partition("no answer")[2] in text, f"{name} lacks the message", text)
        check(named in text, f"{name} does not name {named}", text)
    print(f"{mode}: ended in {seconds:.1f} s\n{message}\n{(directory / files[0]).read_text()}")


def check_quiet(job, mode, directory):
    code, _ = job.finish(LIMIT_S)
    output = job.output()
    check(code == 0, f"exit code {code}, expected 0", output)
    check(ALARM not in output, "an alarm", output)
    check(not list(directory.iterdir()), "records without an alarm", output)
    expected = QUIET[mode][1]
    check(re.search(expected, output) if expected else "took longer" not in output,
          f"expected {expected} in the output", output)


def main():
    parser = launcher_arguments(__doc__)
    parser.add_argument("mode", choices=[*ALARMS, *QUIET, "unwritable"])
    parser.add_argument("--watched-rank", required=True)
    arguments = parser.parse_args()
    mode = "absent" if arguments.mode == "unwritable" else arguments.mode
    num_ranks = (ALARMS | QUIET)[mode][0]
    with tempfile.TemporaryDirectory() as work:
        directory = Path(work) / "records"
        if arguments.mode != "unwritable":
            directory.mkdir()
        with Job(launcher_of(arguments), num_ranks,
                 [arguments.watched_rank, mode, directory]) as job:
            if arguments.mode == "unwritable":
                code, _ = job.finish(LIMIT_S)
                check(code == 3, f"exit code {code}, expected 3", job.output())
                check(job.output().count("could not be written") == num_ranks,
                      "each rank says that its records are lost", job.output())
            elif mode in ALARMS:
                check_alarm(job, mode, directory)
            else:
                check_quiet(job, mode, directory)


if __name__ == "__main__":
    main()

"""How jobs end whose ranks communicate between devices (tests/mpi/nccl_rank.cpp, on the stand-in of
NCCL) and hang or fail there: with exit code 3 and a message that names the call and the rank
although no host waits in the call, and with communicators aborted before the processes end, so that
no kernel of theirs runs on."""

import re
import sys
import tempfile
from pathlib import Path

from jobs import Job, launcher_arguments, launcher_of

LIMIT_S = 60  # of a job that should take a few seconds
NUM_RANKS = 3
ALARM = "no answer within 1.5 s"
ABORTED = "a communicator is aborted"

# Mode: (what the message says, communicators that are aborted at least).
ALARMS = {
    "absent": ([r"all_gather #3 of group gather \(12000 bytes\) at step 1",
                r"rank 2 of 3 \(host \S+, pid \d+\) has not come: it does not wait, it is at step 2",
                r"waiting: ranks 0 1"], 3),
    "first": ([r"all_gather #1 of group gather \(12000 bytes\) at step 1", r"rank 2 of 3 .* has not",
               r"waiting: ranks 0 1"], 3),
    "ahead": ([r"all_gather #3 of group gather", r"rank 2 of 3 .* has not come",
               r"waiting: ranks 0 1"], 3),
    "compute": ([r"all_gather #3 of group gather .* every rank has started it, but it does not end",
                 r"rank 2 of 3 .* waits in synchronize #1 of group compute stream",
                 r"waiting: ranks 0 1"], 3),
    "released": ([r"all_gather #2 of group gather", r"rank 2 of 3 .* has not come",
                  r"waiting: ranks 0 1"], 3),
    "staged": ([r"all_gather #3 of group gather \(12000 bytes\) at step 1",
                r"rank 2 of 3 .* has not come", r"waiting: ranks 0 1"], 0),
}
# Mode: what the rank at fault says.
ERRORS = {
    "fails": r"\[rank 2/3\] error: .*remote process exited",
    "polled": r"\[rank 2/3\] error: .*unhandled system error",
    "init": r"\[rank 2/3\] error: ncclCommInitRankConfig failed \(unhandled system error",
}


def check(statement, what, output):
    if not statement:
        sys.exit(f"FAILED {what}\n{output}")


def check_alarm(output, mode, directory):
    expected, num_aborted = ALARMS[mode]
    check(output.count(ALARM) == 1, f"{output.count(ALARM)} alarms, expected 1", output)
    message = next(line for line in output.splitlines() if ALARM in line)
    for pattern in expected:
        check(re.search(pattern, message), f"the message lacks {pattern}", output)
    check(output.count(ABORTED) >= num_aborted, f"{num_aborted} communicators are aborted", output)
    check("failed (" not in output, "an abort is taken for a failure", output)
    files = sorted(path.name for path in directory.iterdir())
    check(files == [f"watchdog-rank-{rank:05d}.txt" for rank in range(NUM_RANKS)],
          f"records {files}", output)
    print(message)


def check_error(output, mode):
    check(re.search(ERRORS[mode], output), f"the output lacks {ERRORS[mode]}", output)
    check(output.count(ABORTED) >= 1, "the communicator of the failed rank is aborted", output)
    check(ALARM not in output, "an alarm", output)


def main():
    parser = launcher_arguments(__doc__)
    parser.add_argument("mode", choices=[*ALARMS, *ERRORS, "late"])
    parser.add_argument("--nccl-rank", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, Job(
            launcher_of(arguments), NUM_RANKS, [arguments.nccl_rank, arguments.mode, work],
            {"STANDIN_TELLS_ABORTS": "1"}) as job:
        code, seconds = job.finish(LIMIT_S)
        output = job.output()
        check(code == (0 if arguments.mode == "late" else 3), f"exit code {code}", output)
        if arguments.mode in ALARMS:
            check_alarm(output, arguments.mode, Path(work))
        elif arguments.mode in ERRORS:
            check_error(output, arguments.mode)
        else:
            check(ALARM not in output and ABORTED not in output, "an alarm or an abort", output)
            check("took longer than 1.5 s and has ended: going on" in output, "no warning", output)
        print(f"{arguments.mode}: ended in {seconds:.1f} s")


if __name__ == "__main__":
    main()

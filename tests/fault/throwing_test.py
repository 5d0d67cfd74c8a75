"""A rank that throws in the middle of a step (tests/mpi/throwing_step.cpp) ends the job at once:
the others, which wait for it, do not go on waiting until a timeout."""

import sys
import tempfile

from jobs import Job, launcher_arguments, launcher_of

LIMIT_S = 60  # a job that nobody ends would wait for 600 s
NUM_RANKS = 3


def main():
    parser = launcher_arguments(__doc__)
    parser.add_argument("mode", choices=["weights1", "weights2", "gradients"])
    parser.add_argument("--throwing-step", required=True)
    arguments = parser.parse_args()
    # The model that the job leaves behind when it is ended.
    with tempfile.TemporaryDirectory() as work, Job(
            launcher_of(arguments), NUM_RANKS, [arguments.throwing_step, arguments.mode],
            {"TMPDIR": work}) as job:
        code, seconds = job.finish(LIMIT_S)
        output = job.output()
    message = f"[rank {NUM_RANKS - 1}/{NUM_RANKS}] error: this rank fails"
    if code != 1 or message not in output:
        sys.exit(f"FAILED exit code {code}, expected 1 and \"{message}\"\n{output}")
    print(f"{arguments.mode}: ended {seconds:.1f} s after the start of the job")


if __name__ == "__main__":
    main()

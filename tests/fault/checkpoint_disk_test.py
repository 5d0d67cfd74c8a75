"""Disks without space and limits on file sizes while checkpoints are saved.

  limit   one rank may not write a file as large as a checkpoint (ulimit -f): training goes on
          without, and warns; when it is asked to stop it ends with exit code 1
  disk    output.dir on a small tmpfs that fills up, in a mount namespace of its own, which needs the
          right to mount; where that is not given, CTest shows the test as skipped
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from checkpoint_runs import (
    DONE,
    LIMIT_S,
    Run,
    arguments_of,
    checkpoint_runs,
    send,
    verifies,
)

UNEXPECTED = 1
SKIPPED = 77  # CTest's SKIP_RETURN_CODE
NUM_STEPS = 30
LONG = 100000  # steps that no run comes to
# Rank 1's files may have 16 * 512 bytes: its part of a checkpoint has more.
LIMITED_RANK = ("sh", "-c", 'if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then ulimit -f 16; fi; exec "$@"',
                "sh")
DISK_BYTES = 4 << 20


def stop(run, job):
    send(job.rank_pids()[0], signal.SIGUSR1)
    code, _ = job.finish(LIMIT_S)
    return code, job.output()


def limit(runs):
    expected = Run(runs, "expected", "full", train__max_steps=NUM_STEPS)
    expected.finish(2)
    run = Run(runs, "limited", "full", train__max_steps=NUM_STEPS, checkpoint__interval=10)
    printed = run.finish(2, prefix=LIMITED_RANK)
    assert printed.count("no checkpoint of step") == 3, printed
    assert "rank-00001.h5: cannot write" in printed and "training goes on" in printed, printed
    assert run.weights() == expected.weights()
    assert list(run.checkpoints.iterdir()) == [], "left files behind"
    print("a rank that may not write: training goes on without checkpoints, same weights")

    run = Run(runs, "stopped", "full", train__max_steps=LONG)
    with run.start(2, LIMITED_RANK) as job:
        run.wait_for_step(job, 3)
        code, printed = stop(run, job)
    assert code == UNEXPECTED, f"exit code {code}\n{printed}"
    assert "could not be written" in printed and "rank-00001.h5" in printed, printed
    print("asked to stop, its checkpoint not possible: exit code 1 and the reason")


def fill(disk, free_bytes):
    """Leaves about `free_bytes`."""
    (disk / "filler").unlink(missing_ok=True)
    space = os.statvfs(disk)
    with open(disk / "filler", "wb") as file:
        file.write(bytes(max(0, space.f_bavail * space.f_frsize - free_bytes)))


def disk_full_during_training(runs, disk, expected):
    """No checkpoint after the first fits; what the run writes at its end does."""
    run = Run(runs, "disk/goes-on", "full", train__max_steps=NUM_STEPS, checkpoint__interval=10)
    run.output.mkdir()
    fill(disk, 330_000)
    printed = run.finish(2)
    assert printed.count("no checkpoint of step") == 3, printed
    assert "bytes needed" in printed and "bytes free" in printed, printed
    assert run.weights() == expected.weights()
    assert list(run.checkpoints.glob("*")) == [], "left files behind"
    print("no space for a checkpoint: training goes on, same weights")


def disk_full_at_stop(runs, disk, expected):
    run = Run(runs, "disk/stops", "full", train__max_steps=NUM_STEPS * 20, checkpoint__interval=10)
    fill(disk, DISK_BYTES)
    with run.start(2) as job:
        run.wait_for_checkpoint(job)
        fill(disk, 0)
        code, printed = stop(run, job)
    assert code == UNEXPECTED, f"exit code {code}\n{printed}"
    assert "could not be written" in printed, printed
    saved = run.steps_saved()
    assert saved and all(verifies(run.checkpoint(step)) for step in saved), saved
    fill(disk, DISK_BYTES)
    run.finish(2)
    assert run.events("resume")[-1]["step"] == saved[-1]
    steps = [step["step"] for step in run.events("step")]
    assert steps == list(range(1, NUM_STEPS * 20 + 1)), "steps of run.jsonl"
    assert run.weights() == expected.weights()
    print(f"asked to stop with a full disk: exit code 1, then resumed from step {saved[-1]}, "
          "same weights")


def disk_full_at_the_end(runs, disk, expected):
    run = Run(runs, "disk/ends", "full", train__max_steps=NUM_STEPS * 20, checkpoint__interval=10)
    fill(disk, DISK_BYTES)
    with run.start(2) as job:
        run.wait_for_checkpoint(job)
        fill(disk, 0)
        code, _ = job.finish(LIMIT_S)
        printed = job.output()
    assert code == UNEXPECTED, f"exit code {code}\n{printed}"
    assert "model" in printed and "cannot write" in printed, printed
    saved = run.steps_saved()
    assert saved and all(verifies(run.checkpoint(step)) for step in saved), saved
    fill(disk, DISK_BYTES)
    run.finish(2)
    assert run.weights() == expected.weights()
    print("final save on a full disk: exit code 1, the last checkpoint loads, same weights")


def disk(runs):
    """In a mount namespace of this process."""
    path = runs.work / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", path],
                      check=False).returncode:
        return SKIPPED
    expected = Run(runs, "expected", "full", train__max_steps=NUM_STEPS)
    expected.finish(2)
    disk_full_during_training(runs, path, expected)
    longer = Run(runs, "longer", "full", train__max_steps=NUM_STEPS * 20)
    longer.finish(2)
    for case in (disk_full_at_stop, disk_full_at_the_end):
        for old in path.iterdir():
            subprocess.run(["rm", "-rf", old], check=True)
        case(runs, path, longer)
    subprocess.run(["umount", path], check=True)
    return DONE


def main():
    parser = arguments_of(__doc__, case=["limit", "disk"])
    parser.add_argument("--in-namespace", action="store_true")
    arguments = parser.parse_args()
    if arguments.case == "disk" and not arguments.in_namespace:
        # The mount is gone with the last process in there, whatever happens.
        apart = ["unshare", "--mount", "--propagation", "private"]
        if subprocess.run([*apart, "true"], check=False).returncode:
            sys.exit(SKIPPED)
        sys.exit(subprocess.run([*apart, sys.executable, Path(__file__), *sys.argv[1:],
                                 "--in-namespace"], check=False).returncode)
    with checkpoint_runs(arguments) as runs:
        sys.exit(disk(runs) if arguments.case == "disk" else limit(runs))


if __name__ == "__main__":
    main()

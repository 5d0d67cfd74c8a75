"""Disks without space and limits on file sizes while checkpoints are saved.

  limit   one rank may not write a file as large as a checkpoint (ulimit -f): training goes on
          without, and warns; when it is asked to stop it ends with exit code 1
  full    output.dir on a small tmpfs that fills up, in a mount namespace of its own; where neither
          root nor a user namespace may mount, only `limit` can be tested, and the output says so
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from checkpoint_runs import (
    ENDLESS,
    EXTRA_STEPS,
    LIMIT_S,
    Run,
    arguments_of,
    checkpoint_runs,
    send,
    up_to,
    verifies,
)
from jobs import wait_for

UNEXPECTED = 1
# Mounts made in there are gone with the last process, whatever happens.
APART = [["unshare", "--mount", "--propagation", "private"],
         ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private"]]
NUM_STEPS = 30
KEPT = 2
EVERY_TEN = {"checkpoint__interval": 10, "checkpoint__keep": KEPT}
# Rank 1's files may have 16 * 512 bytes: its part of a checkpoint has more.
LIMITED_RANK = ("sh", "-c", 'if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then ulimit -f 16; fi; exec "$@"',
                "sh")
DISK_BYTES = 16 << 20
# Enough for run.jsonl and run.h5, not for 150 kB of weights.
FREE_AT_THE_END = 100_000


def stop(run, job):
    send(job.rank_pids(LIMIT_S)[0], signal.SIGUSR1)
    code, _ = job.finish(LIMIT_S)
    return code, job.output()


def limit(runs):
    expected = Run(runs, "expected", "full", train__max_steps=NUM_STEPS)
    expected.finish(2)
    run = Run(runs, "limited", "full", train__max_steps=NUM_STEPS, **EVERY_TEN)
    printed = run.finish(2, prefix=LIMITED_RANK)
    assert printed.count("no checkpoint of step") == 3, printed
    assert "rank-00001.h5: cannot write" in printed and "training goes on" in printed, printed
    assert run.weights() == expected.weights()
    assert list(run.checkpoints.iterdir()) == [], "left files behind"
    print("a rank that may not write: training goes on without checkpoints, same weights")

    run = Run(runs, "stopped", "full", **ENDLESS)
    with run.start(2, LIMITED_RANK) as job:
        run.wait_for_step(job, 3)
        code, printed = stop(run, job)
    assert code == UNEXPECTED, f"exit code {code}\n{printed}"
    assert "could not be written" in printed and "rank-00001.h5" in printed, printed
    print("asked to stop, its checkpoint not possible: exit code 1 and the reason")


def fill(disk, free_bytes):
    """Leaves about `free_bytes`; what a run writes meanwhile may take them."""
    (disk / "filler").unlink(missing_ok=True)
    page = bytes(4096)
    with open(disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > free_bytes:
            file.write(page)


def disk_full_during_training(runs, disk):
    """No checkpoint fits; what the run writes at its end does."""
    expected = Run(runs, "expected", "full", train__max_steps=NUM_STEPS)
    expected.finish(2)
    run = Run(runs, "disk/goes-on", "full", train__max_steps=NUM_STEPS, **EVERY_TEN)
    run.output.mkdir()
    fill(disk, 330_000)
    printed = run.finish(2)
    assert printed.count("no checkpoint of step") == 3, printed
    assert "bytes needed" in printed and "bytes free" in printed, printed
    assert run.weights() == expected.weights()
    assert list(run.checkpoints.glob("*")) == [], "left files behind"
    print("no space for a checkpoint: training goes on, same weights")


def check_ended_with_error(run, code, printed, expected):
    """The newest checkpoint, which is complete."""
    assert code == UNEXPECTED, f"exit code {code}\n{printed}"
    assert expected in printed, printed
    saved = run.steps_saved()
    assert saved and all(verifies(run.checkpoint(step)) for step in saved), saved
    return saved[-1]


def check_equal_to_undisturbed(runs, run, options):
    plain = Run(runs, f"plain-{run.output.name}", "full", **options)
    plain.finish(2)
    assert run.computed_steps() == plain.computed_steps()
    assert run.weights() == plain.weights()


def asked_to_stop_on_full_disk(run, job, disk):
    """False where a checkpoint is being written or deleted: what that frees would be enough."""
    with job.paused(LIMIT_S):
        if len(run.steps_saved()) != KEPT or list(run.checkpoints.glob(".*")):
            return False
        # Less than a checkpoint needs, enough for the lines of run.jsonl until the end.
        fill(disk, 300_000)
        send(job.rank_pids(LIMIT_S)[0], signal.SIGUSR1)
        return True


def disk_full_at_stop(runs, disk):
    run = Run(runs, "disk/stops", "full", **ENDLESS | EVERY_TEN)
    with run.start(2) as job:
        run.wait_for_checkpoint(job, KEPT)
        wait_for(lambda: asked_to_stop_on_full_disk(run, job, disk), LIMIT_S, "a full disk")
        code, _ = job.finish(LIMIT_S)
        newest = check_ended_with_error(run, code, job.output(), "could not be written")
    (disk / "filler").unlink()
    num_steps = newest + EXTRA_STEPS
    run.finish(2, train__max_steps=num_steps)
    assert run.events("resume")[-1]["step"] == newest
    check_equal_to_undisturbed(runs, run, up_to(num_steps))
    print(f"asked to stop with a full disk: exit code 1, then resumed from step {newest}, same "
          "weights")


def disk_full_at_the_end(runs, disk):
    """What a run has trained does not fit."""
    run = Run(runs, "disk/ends", "full", **up_to(10) | EVERY_TEN)
    run.finish(2)
    fill(disk, FREE_AT_THE_END)
    with run.start(2, train__max_steps=15) as job:
        code, _ = job.finish(LIMIT_S)
        newest = check_ended_with_error(run, code, job.output(), "model.safetensors: cannot write")
    assert newest == 10, newest
    (disk / "filler").unlink()
    run.finish(2, train__max_steps=15)
    check_equal_to_undisturbed(runs, run, up_to(15))
    print("final save on a full disk: exit code 1, then resumed from step 10, same weights")


def full(runs):
    """In a mount namespace of this process."""
    path = runs.work / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", path], check=True)
    try:
        for case in (disk_full_during_training, disk_full_at_stop, disk_full_at_the_end):
            case(runs, path)
            for old in path.iterdir():
                subprocess.run(["rm", "-rf", old], check=True)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def main():
    parser = arguments_of(__doc__, case=["limit", "full"])
    parser.add_argument("--in-namespace", action="store_true")
    arguments = parser.parse_args()
    if arguments.case == "full" and not arguments.in_namespace:
        probe = ["mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        apart = next((way for way in APART if subprocess.run(
            [*way, *probe], check=False, capture_output=True).returncode == 0), None)
        if apart is None:
            print("mounting is not permitted here: no full disk was tested")
            return
        sys.exit(subprocess.run([*apart, sys.executable, Path(__file__), *sys.argv[1:],
                                 "--in-namespace"], check=False).returncode)
    with checkpoint_runs(arguments) as runs:
        {"limit": limit, "full": full}[arguments.case](runs)


if __name__ == "__main__":
    main()

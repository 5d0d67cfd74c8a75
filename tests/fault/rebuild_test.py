"""run.h5 of the real program: rebuilt from run.jsonl it is what the run wrote; whenever the run is
killed, run.h5 can be read, and rebuilt it has every finished step; a damaged log is refused with
file and line and costs nothing."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas
import xarray

from jobs import Job, launcher_arguments, launcher_of, wait_for

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
from common import GLOBAL_BATCH, MAX_LENGTH, ProgramRuns  # noqa: E402
from hdf5_compare import assert_same_hdf5  # noqa: E402

NUM_KILLS = 5
LIMIT_S = 60  # of anything that the program does here


def rebuild(runs, directory, expected_exit=0):
    done = subprocess.run([runs.program, "rebuild", "--output.dir", directory],
                          capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == expected_exit, f"exit code {done.returncode}\n{done.stderr}"
    return done.stdout if expected_exit == 0 else done.stderr


def whole_events(directory):
    """Event name -> the lines that are complete."""
    text = (directory / "run.jsonl").read_text()
    events = {}
    for line in text[:text.rfind("\n") + 1].splitlines():
        event = json.loads(line)
        events.setdefault(event["event"], []).append(event)
    return events


def numbers(values):
    """null is NaN."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def check_against_log(directory, events):
    """What README shows works, and every number of run.jsonl is where it belongs."""
    path = directory / "run.h5"
    steps, drifts = events.get("step", []), events.get("drift", [])
    with h5py.File(path) as file:
        frame = pandas.DataFrame(file["metrics/train"][:])
        two_pass = [step for step in steps if step["layer_grad_norm"] is not None]
        if two_pass:
            np.testing.assert_array_equal(file["perturbation/grad_norm"][:],
                                          [step["layer_grad_norm"] for step in two_pass])
            assert file["perturbation/step"][:].tolist() == [step["step"] for step in two_pass]
        assert file.attrs["config"] == (directory / "config.cfg").read_text()
        assert file.attrs["program_version"] == events["start"][0]["version"]
        assert file.attrs["schema_version"] == 1
    assert frame.step.tolist() == [step["step"] for step in steps]
    for name in frame:
        np.testing.assert_array_equal(frame[name], numbers(step[name] for step in steps), name)
    if not drifts:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xarray.open_dataset(path, group="drift") as dataset:
            dataset.load()
    assert dataset.step.values.tolist() == [drift["step"] for drift in drifts]
    np.testing.assert_array_equal(dataset.l2sq, [drift["batches"]["l2sq"] for drift in drifts])
    np.testing.assert_array_equal(dataset.tokens, [drift["batches"]["tokens"] for drift in drifts])
    for name in ("relative", "cosine", "cka"):
        found = [numbers(layer[name] for layer in drift["layers"]) for drift in drifts]
        np.testing.assert_array_equal(dataset[name], found)


def options(runs, output, **changes):
    chosen = {"model.path": runs.base, "data.path": runs.data, "data.template": "plain",
              "data.max_length": MAX_LENGTH, "train.global_batch": GLOBAL_BATCH,
              "vaccine.interval": 2, "drift.interval": 5, "drift.samples": 4, "drift.batch": 2,
              "runtime.threads": 1, "runtime.device": "cpu", "output.dir": output} | changes
    return [part for option, value in chosen.items() for part in (f"--{option}", value)]


def check_finished_run(runs):
    output = runs.work / "finished"
    subprocess.run([runs.program, "align", *map(str, options(runs, output, **{
        "train.max_steps": 12}))], check=True, capture_output=True, timeout=LIMIT_S)
    events = whole_events(output)
    check_against_log(output, events)
    own = output / "run.h5"
    kept = own.rename(output / "own.h5")
    said = rebuild(runs, output)
    assert "12 steps (the last is 12), 3 drift measurements" in said, said
    with h5py.File(kept) as first, h5py.File(own) as second:
        assert {"metrics/train", "drift/l2sq", "perturbation/grad_norm",
                "memory/part"} <= set(assert_same_hdf5(first, second))
    print("rebuilt file of a finished run: every object and attribute the same")
    return output


def check_damaged_log(runs, directory):
    log = directory / "run.jsonl"
    before = (directory / "run.h5").read_bytes()
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines[:4], lines[4].replace('"loss"', '"los"'), *lines[5:]]))
    message = rebuild(runs, directory, expected_exit=2)
    assert f"{log}:5: " in message and "lacks loss" in message, message
    log.unlink()
    message = rebuild(runs, directory, expected_exit=2)
    assert str(log) in message, message
    os.mkfifo(log)
    assert "regular file" in rebuild(runs, directory, expected_exit=2)
    assert (directory / "run.h5").read_bytes() == before
    left = {path.name for path in directory.iterdir()}
    assert left == {"adapter", "config.cfg", "own.h5", "run.h5", "run.jsonl"}, left
    print("damaged, missing and unreadable logs: exit 2, run.h5 as it was")


def num_lines(directory):
    with contextlib.suppress(FileNotFoundError):
        return (directory / "run.jsonl").read_bytes().count(b"\n")
    return 0


def check_killed_run(runs, launcher, trial):
    output = runs.work / f"killed{trial}"
    ranks = 1 + trial % 2
    chance = random.Random(trial)
    command = [runs.program, "align", *options(runs, output, **{"train.max_steps": 10**6})]
    with Job(launcher, ranks, command) as job:
        pids = job.rank_pids()
        wait_for(lambda: num_lines(output) > 20 or job.process.poll() is not None, LIMIT_S, "steps")
        if trial % 4 == 0:  # while the run goes on
            rebuild(runs, output)
            with h5py.File(output / "run.h5") as file:
                assert len(file["metrics/train"]) >= 15
        wait_for(lambda: num_lines(output) > 40 or job.process.poll() is not None, LIMIT_S, "steps")
        time.sleep(chance.uniform(0, 0.2))
        assert job.process.poll() is None, job.output()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        job.finish(LIMIT_S)
    with h5py.File(output / "run.h5") as file:  # as the kill left it
        file["metrics/train"][:]
    events = whole_events(output)
    assert "end" not in events
    said = rebuild(runs, output)
    assert f"{len(events['step'])} steps" in said and "the run has not ended" in said, said
    check_against_log(output, events)
    return len(events["step"])


def main():
    parser = launcher_arguments(__doc__)
    parser.add_argument("--vaccine", required=True, type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        runs = ProgramRuns(Path(work), arguments.vaccine, 8)
        check_damaged_log(runs, check_finished_run(runs))
        steps = [check_killed_run(runs, launcher_of(arguments), trial)
                 for trial in range(NUM_KILLS)]
        print(f"killed after {steps} steps: every one of them in the rebuilt file")


if __name__ == "__main__":
    main()

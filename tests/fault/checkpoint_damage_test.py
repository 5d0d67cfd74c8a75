"""Checkpoints with flipped bytes, missing files and half written ones, as the program meets them.

A checkpoint that was asked for by its path is refused with exit code 2 and the name of the file.
With `auto` the newest one that verifies is taken, the others are named in the log and in run.jsonl
and keep their contents under another name; when none verifies the run ends with exit code 2 and
names each. (tests/unit/io/checkpoint_damage_test.cpp flips every byte of a checkpoint.)

    checkpoint_damage_test.py [--flips 1000] --vaccine ... --mpiexec ...
"""

import random
import shutil

from checkpoint_runs import (
    BAD_INPUT,
    Run,
    arguments_of,
    checkpoint_runs,
    flip_byte,
    verifies,
)

NUM_STEPS = 12
OPTIONS = {"train__max_steps": NUM_STEPS, "checkpoint__interval": 2, "checkpoint__keep": 3}


def damage(path, rng):
    """Flips a bit of any byte of any file of a checkpoint; how to undo it."""
    files = sorted(path.iterdir())
    file = rng.choices(files, [f.stat().st_size for f in files])[0]
    offset, mask = rng.randrange(file.stat().st_size), 1 << rng.randrange(8)
    flip_byte(file, offset, mask)
    return file, lambda: flip_byte(file, offset, mask)


def flips(runs, source, count, rng):
    path = source.checkpoint(source.steps_saved()[-1])
    target = Run(runs, "refused", "full", **OPTIONS | {"checkpoint__resume": path})
    for number in range(count):
        file, undo = damage(path, rng)
        printed = target.finish(1 + number % 2, BAD_INPUT)
        undo()
        assert file.name in printed and "rejected" in printed, f"{file.name} not named:\n{printed}"
        assert not target.output.exists() or not any(target.output.iterdir()), "left files behind"
    assert verifies(path)
    target.finish(2)
    assert target.weights() == source.weights()
    print(f"{count} flipped bytes: all refused with exit code 2, the file named")


def copy_of(runs, source, name):
    copy = Run(runs, name, "full", **OPTIONS)
    shutil.copytree(source.output, copy.output)
    shutil.rmtree(copy.output / "model")
    return copy


def older_one_is_taken(runs, source, rng):
    run = copy_of(runs, source, "older")
    first, second, third = run.steps_saved()
    damaged, _ = damage(run.checkpoint(third), rng)
    (run.checkpoint(second) / "rank-00001.h5").unlink()
    (run.checkpoints / ".step-000099.writing").mkdir()
    printed = run.finish(2)
    resume = run.events("resume")[-1]
    assert resume["step"] == first, resume
    assert [r["path"] for r in resume["rejected"]] == [str(run.checkpoint(s))
                                                       for s in (third, second)], resume
    assert damaged.name in resume["rejected"][0]["reason"], resume
    assert "rank-00001.h5" in resume["rejected"][1]["reason"], resume
    for step in (second, third):
        assert f"{run.checkpoint(step)}" in printed, printed
        assert (run.checkpoints / f"step-{step:06}.rejected" / "manifest.json").exists()
    assert not list(run.checkpoints.glob(".*")), "left over from a killed run"
    assert run.weights() == source.weights()
    assert run.computed_steps() == source.computed_steps()
    print(f"auto: rejected {third} and {second}, went on from {first}, same weights")


def none_verifies(runs, source, rng):
    run = copy_of(runs, source, "none")
    files = [damage(run.checkpoint(step), rng)[0] for step in run.steps_saved()]
    log = (run.output / "run.jsonl").read_bytes()
    printed = run.finish(2, BAD_INPUT)
    for step, file in zip(run.steps_saved(), files, strict=True):
        assert str(run.checkpoint(step)) in printed and file.name in printed, printed
    assert (run.output / "run.jsonl").read_bytes() == log, "the log was touched"
    print("auto: none verifies, exit code 2, each named")


def fresh_run_beside_old_checkpoints(runs, source):
    run = copy_of(runs, source, "fresh")
    saved = run.steps_saved()
    printed = run.finish(2, BAD_INPUT, checkpoint__resume="none")
    assert str(run.checkpoints) in printed and f"step-{saved[-1]:06}" in printed, printed
    assert run.steps_saved() == saved
    print("resume none beside checkpoints of an earlier run: refused")


def from_an_older_path(runs, source):
    run = copy_of(runs, source, "path")
    first, *later = run.steps_saved()
    run.finish(2, checkpoint__resume=run.checkpoint(first))
    assert run.events("resume")[-1]["step"] == first
    assert run.computed_steps() == source.computed_steps()
    assert run.weights() == source.weights()
    for step in later:
        assert (run.checkpoints / f"step-{step:06}.superseded" / "manifest.json").exists()
    print(f"resume from step {first} of {first}, {later}: the later ones are set aside")


def main():
    parser = arguments_of(__doc__)
    parser.add_argument("--flips", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with checkpoint_runs(arguments) as runs:
        source = Run(runs, "source", "full", **OPTIONS)
        source.finish(2)
        flips(runs, source, arguments.flips, rng)
        older_one_is_taken(runs, source, rng)
        none_verifies(runs, source, rng)
        fresh_run_beside_old_checkpoints(runs, source)
        from_an_older_path(runs, source)


if __name__ == "__main__":
    main()

"""A second run into the directory of an earlier one. What cost time or is a user's own is not
replaced unasked: exit code 2 before any work, and every file as it was."""

import shutil

from checkpoint_runs import BAD_INPUT, Run, arguments_of, checkpoint_runs

FRESH = {"checkpoint__resume": "none"}


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() if path.is_file() else None
            for path in sorted(directory.rglob("*"))}


def expect_refused(run, part, **changes):
    before = contents(run.output)
    printed = run.finish(1, BAD_INPUT, **changes)
    errors = [line for line in printed.splitlines() if "error: " in line]
    assert len(errors) == 1 and part in errors[0] and str(run.output) in errors[0], printed
    assert contents(run.output) == before, "files were changed"


def finished(runs, kind):
    """Refused on any number of ranks, replaced when it is asked for."""
    run = Run(runs, f"finished-{kind}", kind, train__max_steps=2)
    run.finish()
    result = run.output / ("adapter" if kind == "lora" else "model")
    first = run.weights()
    notes = result / "NOTES.md"
    notes.write_text("mine")
    for resume in ("none", "auto"):
        expect_refused(run, "output.overwrite", checkpoint__resume=resume, train__lr=0.1)
    run.finish(2, BAD_INPUT, train__lr=0.1)
    run.finish(2, output__overwrite="true", train__lr=0.1)
    assert run.weights() != first and len(run.events("start")) == 1
    assert notes.read_text() == "mine", "a file that the program has not written"
    other = {"lora": "none", "full": "lora"}[kind]
    expect_refused(run, str(result), adapter__type=other)
    if kind == "full":
        expect_refused(run, "model.path", model__path=result, output__overwrite="true")
        link = runs.work / "link"
        link.symlink_to(result)
        expect_refused(run, "model.path", model__path=link, output__overwrite="true")
    shutil.rmtree(result)
    result.write_text("no directory")
    expect_refused(run, str(result), output__overwrite="true")


def with_checkpoints(runs):
    run = Run(runs, "checkpoints", "lora", train__max_steps=4, checkpoint__interval=2)
    run.finish()
    first = run.weights()
    expect_refused(run, "checkpoints of an earlier run", **FRESH)
    run.finish()
    assert run.weights() == first and len(run.events("step")) == 4, "nothing was left to do"
    run.finish(train__max_steps=6)
    assert len(run.events("step")) == 6 and run.weights() != first
    run.finish(output__overwrite="true", **FRESH)
    assert run.weights() == first and len(run.events("start")) == 1 and not run.events("resume")
    assert run.steps_saved() == [2, 4], run.steps_saved()


def unfinished(runs):
    """A run that was killed before its first checkpoint begins anew."""
    run = Run(runs, "unfinished", "lora", train__max_steps=3)
    run.finish()
    shutil.rmtree(run.output / "adapter")
    run.finish()
    assert run.weights()


def beside_the_base(runs):
    """The base model of an adapter may lie where another run would write one."""
    run = Run(runs, "beside", "lora", train__max_steps=2)
    shutil.copytree(runs.base, run.output / "model")
    base = contents(run.output / "model")
    run.finish(model__path=run.output / "model")
    assert run.weights() and contents(run.output / "model") == base
    expect_refused(run, str(run.output / "adapter"), model__path=run.output / "model")


def own_configuration(runs):
    run = Run(runs, "configured", "lora", train__max_steps=2, output__overwrite="true", **FRESH)
    run.output.mkdir()
    mine = run.output / "config.cfg"
    mine.write_text("[train]\nlr = 0.01  # found by hand\n")
    expect_refused(run, "config.cfg")
    mine.unlink()
    run.finish()
    run.finish()


def main():
    with checkpoint_runs(arguments_of(__doc__).parse_args()) as runs:
        for kind in ("lora", "full"):
            finished(runs, kind)
        with_checkpoints(runs)
        unfinished(runs)
        beside_the_base(runs)
        own_configuration(runs)


if __name__ == "__main__":
    main()

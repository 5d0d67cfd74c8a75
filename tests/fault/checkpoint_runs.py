"""What the checkpoint tests share: runs of tiny models as jobs that can be signalled and killed,
and what those leave in their output directories."""

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from jobs import Job, launcher_arguments, launcher_of, wait_for

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
from common import GLOBAL_BATCH, MAX_LENGTH, ProgramRuns  # noqa: E402

# Of anything that a job is waited for. A start takes a second and a step milliseconds, but ranks
# that wait for each other leave little of a small machine to others.
LIMIT_S = 240
DONE, BAD_INPUT, STOPPED = 0, 2, 75
KINDS = {
    "lora": {"adapter.r": 4, "adapter.dropout": 0.1},
    "full": {"adapter.type": "none"},
}
# A run that does not end by itself. Its steps take milliseconds, so that they are not too many when
# it is stopped, and do not depend on how many there will be, so that another run can have its first
# ones.
ENDLESS = {"train__max_steps": 1000000, "train__schedule": "constant", "train__warmup_ratio": 0,
           "train__lr": 1e-4, "train__global_batch": 20, "train__micro_batch": 1}
EXTRA_STEPS = 3  # after the last stop


def up_to(step):
    """The options of the run that ends where an endless one stands."""
    return ENDLESS | {"train__max_steps": step}


# Fields of a step that are measured, not computed. (The first step of a process gathers what later
# ones keep.)
MEASURED = {"step_s", "pass1_s", "comm_s", "comm_bytes", "memory_bytes"}


def arguments_of(description, **choices):
    """`choices`: positional arguments of the test."""
    parser = launcher_arguments(description)
    for name, values in choices.items():
        parser.add_argument(name, choices=values)
    parser.add_argument("--vaccine", required=True, type=Path)
    return parser


class Run:
    """One output directory, which several jobs may work on one after the other."""

    def __init__(self, runs, name, kind, **options):
        """`options`: section__key=value."""
        self.runs, self.kind = runs, kind
        self.output = runs.work / name
        self.checkpoints = self.output / "checkpoints"
        self.options = {
            "model.path": runs.base, "data.path": runs.data, "data.template": "plain",
            "data.max_length": MAX_LENGTH, "train.global_batch": GLOBAL_BATCH,
            "runtime.threads": 1, "runtime.device": "cpu", "output.dir": self.output,
            "output.log_interval": 1000, "checkpoint.resume": "auto",
            **KINDS[kind]} | with_points(options)

    def command(self, **changes):
        options = self.options | with_points(changes)
        return [self.runs.program, "align",
                *(str(part) for name, value in options.items() for part in (f"--{name}", value))]

    def start(self, ranks=1, prefix=(), **changes):
        """`prefix`: a command that starts each rank."""
        return Job(self.runs.launcher, ranks, [*prefix, *self.command(**changes)])

    def finish(self, ranks=1, expected=DONE, prefix=(), **changes):
        """A job from its start to its end; what it printed."""
        with self.start(ranks, prefix, **changes) as job:
            code, _ = job.finish(LIMIT_S)
            printed = job.output()
        assert code == expected, f"exit code {code}, expected {expected}\n{printed}"
        return printed

    def events(self, kind=None):
        """The complete lines of run.jsonl; of one kind of event."""
        with contextlib.suppress(FileNotFoundError):
            text = (self.output / "run.jsonl").read_text()
            events = [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]
            return [e for e in events if kind in (None, e["event"])]
        return []

    def steps_done(self):
        """From the end of run.jsonl: the whole of a long one takes longer than steps do."""
        with contextlib.suppress(FileNotFoundError), open(self.output / "run.jsonl", "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - (1 << 14)))
            steps = re.findall(rb'"event":"step","step":(\d+),', log.read())
            return int(steps[-1]) if steps else 0
        return 0

    def log_bytes(self):
        path = self.output / "run.jsonl"
        return path.stat().st_size if path.exists() else 0

    def wait_for_step(self, job, step):
        wait_for(lambda: self.steps_done() >= step or job.process.poll() is not None, LIMIT_S,
                 f"step {step}")
        assert job.process.poll() is None, f"the run ended by itself\n{job.output()}"

    def wait_for_checkpoint(self, job, number=1):
        wait_for(lambda: len(self.steps_saved()) >= number or job.process.poll() is not None,
                 LIMIT_S, f"{number} checkpoints")
        assert job.process.poll() is None, f"the run ended by itself\n{job.output()}"

    def computed_steps(self):
        """Every step's numbers without what was measured."""
        return [{k: v for k, v in event.items() if k not in MEASURED}
                for event in self.events("step")]

    def steps_saved(self):
        """Steps of the published checkpoints, ascending."""
        return sorted(int(path.name[5:]) for path in self.checkpoints.glob("step-*")
                      if path.name[5:].isdigit())

    def checkpoint(self, step):
        return self.checkpoints / f"step-{step:06}"

    def weights(self):
        """Bytes of what the run has trained."""
        paths = sorted((self.output / ("adapter" if self.kind == "lora" else "model"))
                       .glob("*.safetensors"))
        assert paths, f"{self.output} has no weights"
        return b"".join(path.read_bytes() for path in paths)


def with_points(options):
    return {name.replace("__", "."): value for name, value in options.items()}


@contextlib.contextmanager
def checkpoint_runs(arguments, num_rows=20):
    with tempfile.TemporaryDirectory() as work:
        yield ProgramRuns(Path(work), arguments.vaccine, num_rows, launcher_of(arguments))


def verifies(checkpoint):
    """As sha256sum would see it, independent of the program."""
    try:
        text = (checkpoint / "manifest.json").read_bytes()
        line = (checkpoint / "manifest.json.sha256").read_text()
        if line != f"{hashlib.sha256(text).hexdigest()}  manifest.json\n":
            return False
        return all(hashlib.sha256((checkpoint / file["name"]).read_bytes()).hexdigest()
                   == file["sha256"] for file in json.loads(text)["files"])
    except (OSError, ValueError):
        return False


def flip_byte(path, offset, mask):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def read_index(checkpoint):
    """Every array of index.h5 by its path."""
    import h5py
    arrays = {}
    with h5py.File(checkpoint / "index.h5") as index:
        index.visititems(lambda name, item: arrays.update({name: item[()]})
                         if isinstance(item, h5py.Dataset) else None)
    assert arrays, f"{checkpoint}: index.h5 shows nothing"
    return arrays


def same_bytes(first, second):
    return (first.keys() == second.keys()
            and all(np.array_equal(first[name].view(np.uint32), second[name].view(np.uint32))
                    for name in first))


def request(run, name):
    (run.output / name).touch()


def send(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

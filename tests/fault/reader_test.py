"""The reader of a program's output goes away, as in `vaccine align ... | tee log` when tee dies.

  train     a run goes on to its end: exit code 0, all steps, the adapter
  tokenize  what is read has nobody to read it any more: an error
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from jobs import launcher_arguments, launcher_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
from common import GLOBAL_BATCH, MAX_LENGTH, ProgramRuns  # noqa: E402

LIMIT_S = 120
NUM_STEPS = 200  # lines of progress, far more than it takes


def until_first_line(command, **streams):
    """Starts the command, reads a line of its output, closes the reading end; its exit code."""
    reading, writing = os.pipe()
    with subprocess.Popen([str(part) for part in command], stdout=writing, **streams) as process:
        os.close(writing)
        with os.fdopen(reading) as output:
            assert output.readline(), "no output"
        return process.wait(LIMIT_S)


def train(runs, _work):
    output = runs.work / "run"
    options = {"model.path": runs.base, "data.path": runs.data, "data.template": "plain",
               "data.max_length": MAX_LENGTH, "train.global_batch": GLOBAL_BATCH,
               "train.max_steps": NUM_STEPS, "runtime.threads": 1, "runtime.device": "cpu",
               "output.dir": output}
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    code = until_first_line([runs.program, "align", *flags], stderr=subprocess.STDOUT)
    events = [json.loads(line) for line in (output / "run.jsonl").read_text().splitlines()]
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert code == 0, f"exit code {code} after step {len(steps)}"
    assert steps == list(range(1, NUM_STEPS + 1)) and events[-1]["status"] == "done", events[-1]
    assert (output / "adapter" / "adapter_model.safetensors").exists()


def tokenize(runs, work):
    lines, errors = work / "lines", work / "errors"
    lines.write_text("a\n" * 1_000_000)
    with lines.open() as standard_input, errors.open("w") as standard_error:
        code = until_first_line([runs.program, "tokenize", "--model.path", runs.base],
                                stdin=standard_input, stderr=standard_error)
    assert code == 1 and "standard output" in errors.read_text(), (code, errors.read_text())


CASES = {"train": train, "tokenize": tokenize}


def main():
    parser = launcher_arguments(__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--vaccine", required=True, type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        runs = ProgramRuns(Path(work), arguments.vaccine, 20, launcher_of(arguments))
        CASES[arguments.case](runs, Path(work))


if __name__ == "__main__":
    main()

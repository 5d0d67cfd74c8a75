#!/usr/bin/env python3
"""Benchmarks of one GPU, run in parts, and the table of what they measured.

  gpu_check.py run STAGE --program PATH --output DIR   STAGE: bench-7b | bench-13b | bench-python
  gpu_check.py tests LOG --output DIR                  keeps what ctest said
  gpu_check.py table --output DIR

Everything is kept as JSON lines in DIR/results.jsonl. `run` makes what is not there yet, first what
was never tried, then what failed; with --seconds it ends in time and exits with 4 when something is
left, so that it can be called again. Exit code 1: something failed. scripts/gpu_check.sh calls it.
"""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PYTHON_PROGRAM = Path(__file__).resolve().parent / "gpu_python.py"
EXIT_LEFT = 4
LONGEST_RUN_S = 300
SHORTEST_RUN_S = 45  # with less time left nothing is started


@dataclass(frozen=True)
class Run:
    stage: str
    name: str
    arguments: tuple

    @property
    def is_python(self):
        return self.stage == "bench-python"


def arguments_of(model, adapter, dtype, shape, **options):
    sequences, tokens = map(int, shape.split("x"))
    values = {"model": model, "adapter": adapter, "dtype": dtype, "sequences": sequences,
              "tokens": tokens, "labels": tokens * 4 // 5, "rounds": 11} | options
    return tuple(part for name, value in values.items()
                 for part in (f"--{name}", str(value)))


def engine_runs():
    """(model, adapter, dtype, shape, options)"""
    fp8 = {"probe": "fp8"}
    cells = [("7b", "lora", "bf16", "5x200", fp8), ("7b", "lora", "bf16", "5x200",
                                                    fp8 | {"graphs": "on"})]
    cells += [("7b", "lora", "bf16", shape, fp8) for shape in ("1x2048", "1x4096", "2x4096")]
    cells += [("7b", "full", "bf16", "5x200", fp8), ("7b", "full", "bf16", "1x2048", fp8),
              ("7b", "full", "bf16", "1x4096", fp8 | {"recompute": "all"}),
              ("7b", "lora", "fp32", "5x200", {}),
              ("7b", "lora", "fp32", "5x200", {"graphs": "on"})]
    cells += [("13b", "lora", "bf16", "5x200", fp8 | {"graphs": graphs})
              for graphs in ("off", "on")]
    cells += [("13b", "lora", "bf16", shape, fp8) for shape in ("1x2048", "1x4096", "2x4096")]
    return [Run(f"bench-{model}", "-".join([model, adapter, dtype, shape] +
                                           [f"{k}={v}" for k, v in options.items()]),
                arguments_of(model, adapter, dtype, shape, **options))
            for model, adapter, dtype, shape, options in cells]


def python_runs():
    cells = []
    for model, shape in [("7b", "5x200"), ("7b", "1x2048"), ("13b", "5x200"), ("13b", "1x2048")]:
        cells += [(model, "lora", "bf16", shape, {"autocast": autocast})
                  for autocast in ("on", "off")]
    cells += [("7b", "full", "bf16", "5x200", {"autocast": "on"})]
    if importlib.util.find_spec("flash_attn"):
        cells += [(model, "lora", "bf16", shape, {"attention": "flash_attention_2"})
                  for model in ("7b", "13b") for shape in ("5x200", "1x2048")]
    runs = [Run("bench-python", "-".join(["python", model, adapter, dtype, shape] +
                                         [f"{k}={v}" for k, v in options.items()]),
                arguments_of(model, adapter, dtype, shape, **options))
            for model, adapter, dtype, shape, options in cells]
    runs += [Run("bench-python", f"python-7b-{adapter}-bf16-5x200-compile",
                 (*arguments_of("7b", adapter, "bf16", "5x200", methods="sft"), "--compile"))
             for adapter in ("lora", "full")]
    return runs


def all_runs():
    return engine_runs() + python_runs()


class Results:
    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "results.jsonl"

    def lines(self):
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def add(self, *records):
        with self.path.open("a") as file:
            for record in records:
                file.write(json.dumps(record) + "\n")

    def done(self):
        return {line["run"] for line in self.lines() if "run" in line and "error" not in line}

    def failed(self):
        return {line["run"] for line in self.lines() if "error" in line} - self.done()


def say(text):
    print(f"gpu_check: {text}", file=sys.stderr, flush=True)


def command_of(run, program, extra):
    if run.is_python:
        return [sys.executable, str(PYTHON_PROGRAM), *run.arguments, *extra]
    return [str(program), *run.arguments, *extra]


def execute(run, options, timeout_s):
    """The records of a run, one with an "error" where it failed. THROWS TimeoutExpired."""
    done = subprocess.run(command_of(run, options.program, options.extra), capture_output=True,
                          text=True, timeout=timeout_s, check=False)
    common = {"run": run.name, "stage": run.stage}
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["nothing on standard error"]
        return [common | {"error": f"exit code {done.returncode}: {' | '.join(said[-3:])[-600:]}"}]
    return [common | json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def run_stage(options):
    """Exit code."""
    results = Results(options.output)
    start = time.monotonic()
    failed_before = results.failed()
    todo = [run for run in all_runs() if run.stage == options.stage
            and run.name not in results.done() and options.only.search(run.name)]
    todo.sort(key=lambda run: run.name in failed_before)
    failures = 0
    for index, run in enumerate(todo):
        left_s = options.seconds - (time.monotonic() - start) if options.seconds else LONGEST_RUN_S
        if left_s < SHORTEST_RUN_S:
            say(f"{len(todo) - index} runs of {options.stage} are left: call it again")
            return EXIT_LEFT
        timeout_s = min(left_s, LONGEST_RUN_S)
        try:
            records = execute(run, options, timeout_s)
        except subprocess.TimeoutExpired:
            if timeout_s < LONGEST_RUN_S:
                say(f"{run.name}: not done in the {timeout_s:.0f} s that were left: call it again")
                return EXIT_LEFT
            records = [{"run": run.name, "stage": run.stage, "error": f"took over {timeout_s} s"}]
        results.add(*records)
        for record in records:
            failures += "error" in record
            say(f"{run.name}: " + (record.get("error") or
                                   f"{record['method']} {record['step_s'] * 1e3:.1f} ms"))
    return 1 if failures else 0


def keep_tests(options):
    """The summary of a ctest log, and the names of what failed."""
    text = options.log.read_text()
    found = re.search(r"(\d+)% tests passed, (\d+) tests? failed out of (\d+)", text)
    if not found:
        say(f"{options.log}: no summary of ctest")
        return 1
    failed = re.findall(r"^\s*\d+ - (\S+) \((?!Skipped)", text, re.MULTILINE)
    skipped = re.findall(r"Test +#\d+: (\S+) .*\*\*\*Skipped", text)
    Results(options.output).add({"stage": "test", "num_failed": int(found[2]),
                                 "num_tests": int(found[3]), "failed": failed,
                                 "skipped": skipped})
    return 1 if int(found[2]) else 0


# What is compared: the same model, parameters, precision and batch.
def cell_of(record):
    return tuple(record[key] for key in
                 ("model", "adapter", "dtype", "sequences", "sequence_tokens"))


def python_method(method):
    return "sft" if method == "sft" else "vaccine"


class Table:
    HEAD = ("model and batch", "run", "step ms", "tokens/s", "TFLOP/s", "MFU", "peak GiB",
            "Vaccine/SFT", "x Python", "measured (goal)", "reached")

    def __init__(self, lines):
        latest = {}  # of a run and method
        for line in lines:
            if "method" in line:
                latest[line["run"], line["method"]] = line
        self.records = list(latest.values())
        done = {run for run, _ in latest}
        self.failures = {line["run"]: line["error"] for line in lines
                         if "error" in line and line["run"] not in done}
        self.tests = [line for line in lines if line.get("stage") == "test"][-1:]

    def python_runs(self, record):
        return [other for other in self.records if other["stack"] == "python"
                and cell_of(other) == cell_of(record)
                and other["method"] == python_method(record["method"])]

    def times_python(self, record):
        """Against the fastest of its variants."""
        times = [other["step_s"] for other in self.python_runs(record)]
        return min(times) / record["step_s"] if times else None

    def memory_of_python(self, record):
        """Against the smallest of its variants."""
        peaks = [other["peak_bytes"] for other in self.python_runs(record) if other["peak_bytes"]]
        return record["peak_bytes"] / min(peaks) if peaks else None

    def is_what_runs(self, record):
        """The program uses graphs where it can: without them no goal applies."""
        return record["graphs"] or not any(
            other["stack"] == "vaccine" and other["graphs"] and cell_of(other) == cell_of(record)
            for other in self.records)

    def goals(self, record):
        """[(what was measured and the goal, reached)]"""
        if record["stack"] == "python" or record["dtype"] != "bf16" or \
                not self.is_what_runs(record):
            return []
        found = []
        times, memory = self.times_python(record), self.memory_of_python(record)
        tokens = record["tokens"]
        if (record["sequences"], record["sequence_tokens"]) == (5, 200) and times is not None:
            found.append((f"{times:.2f} x Python (>= 2)", times >= 2))
        if tokens >= 2048 and record["mfu"] is not None and not record["method"].endswith("fp8"):
            found.append((f"MFU {record['mfu']:.1%} (>= 55 %)", record["mfu"] >= 0.55))
        if memory is not None:
            found.append((f"memory {memory:.2f} of Python's (< 1)", memory < 1))
        if record["method"] == "vaccine-fp8":
            found.append((f"ratio {record['ratio']:.2f} (<= 1.4)", record["ratio"] <= 1.4))
        elif record["method"] == "vaccine":
            limit = 2.0 if record["adapter"] == "lora" else 1.69
            if record["recompute"] == "all" and record["adapter"] == "full":
                limit = 1.77
            found.append((f"ratio {record['ratio']:.2f} (<= {limit})", record["ratio"] <= limit))
        return found

    def label(self, record):
        if record["stack"] == "python":
            parts = ["Python", record["attention"]]
            parts += ["autocast"] if record["autocast"] else []
            parts += ["compile"] if record["compile"] else []
        else:
            parts = ["vaccine"] + (["graphs"] if record["graphs"] else [])
            parts += [f"recompute {record['recompute']}"] if record["recompute"] != "none" else []
        names = {"sft": "SFT", "vaccine": "Vaccine", "vaccine-fp8": "Vaccine, fp8 pass 1",
                 "vaccine-bf16": "Vaccine, bf16 pass 1"}
        return f"{names[record['method']]} ({', '.join(parts)})"

    def row(self, record):
        def show(value, form):
            return "-" if value is None else format(value, form)
        model, adapter, dtype, sequences, tokens = cell_of(record)
        own = record["stack"] == "vaccine"
        peak = record["peak_bytes"]
        goals = self.goals(record)
        return (f"{model} {adapter} {dtype} {sequences} x {tokens}", self.label(record),
                f"{record['step_s'] * 1e3:.1f}", f"{record['tokens_per_s']:.0f}",
                show(record.get("tflops"), ".0f"), show(record.get("mfu"), ".1%"),
                show(peak / 2**30 if peak else None, ".1f"), show(record.get("ratio"), ".2f"),
                show(self.times_python(record) if own else None, ".2f"),
                "; ".join(text for text, _ in goals) or "-",
                ", ".join("yes" if reached else "no" for _, reached in goals) or "-")

    def order(self, record):
        model, adapter, dtype, sequences, tokens = cell_of(record)
        return (len(model), model, adapter == "full", dtype, tokens, sequences,
                record["stack"] == "python", record["method"])

    def markdown(self):
        rows = [self.HEAD, ("---",) * len(self.HEAD)]
        rows += [self.row(record) for record in sorted(self.records, key=self.order)]
        lines = [f"Device: {', '.join(sorted({r['device'] for r in self.records})) or 'none'}. "
                 "MFU counts what a step cannot do without, against the dense bf16 (fp32) peak.", ""]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        for test in self.tests:
            lines += ["", f"Tests labelled gpu: {test['num_tests'] - test['num_failed']} of "
                      f"{test['num_tests']} passed" +
                      (f"; failed: {', '.join(test['failed'])}" if test["failed"] else "") +
                      (f"; skipped: {', '.join(test['skipped'])}" if test["skipped"] else "")]
        missing = [run.name for run in all_runs() if run.name not in self.failures
                   and run.name not in {r["run"] for r in self.records}]
        lines += ["", f"Not run: {', '.join(missing)}"] if missing else []
        lines += [f"Failed: {name}: {error}" for name, error in self.failures.items()]
        return "\n".join(lines)


def print_table(options):
    print(Table(Results(options.output).lines()).markdown())
    return 0


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run")
    run.add_argument("stage", choices=sorted({run.stage for run in all_runs()}))
    run.add_argument("--program", type=Path, required=True, help="step_benchmark")
    run.add_argument("--seconds", type=float, default=0, help="end after so many (0: when done)")
    run.add_argument("--only", type=re.compile, default=re.compile(""), metavar="PATTERN")
    run.add_argument("extra", nargs="*", help="after --: more arguments of the programs")
    run.set_defaults(call=run_stage)
    tests = commands.add_parser("tests")
    tests.add_argument("log", type=Path)
    tests.set_defaults(call=keep_tests)
    table = commands.add_parser("table")
    table.set_defaults(call=print_table)
    for command in (run, tests, table):
        command.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(argv)
    return options.call(options)


if __name__ == "__main__":
    sys.exit(main())

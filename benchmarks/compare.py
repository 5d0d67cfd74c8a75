#!/usr/bin/env python3
"""How fast is `vaccine`, and how much memory does it take, against what a PyTorch user has today?

On one machine in one go, on the same checkpoint and the same batches with the same threads:
  python   transformers + peft, Vaccine as two hooked passes (the public implementation's way)
  compile  SFT under torch.compile with fused AdamW
  fsdp2    SFT under PyTorch's fully_shard on gloo, two processes
  vax      the program, `vaccine align`
Every run is a process of its own that trains a few steps; a round makes every run once, every
second round in reverse order, and all ratios are taken within a round. The report (standard output,
and JSON with --output) has the runs, each goal with what was measured, and the check that both
sides computed the same losses. Progress goes to standard error.

  .venv/bin/python benchmarks/compare.py --vaccine build/release/vaccine --output compare.json
  .venv/bin/python benchmarks/compare.py --vaccine build/release/vaccine --quick

Needs the packages of tools/requirements-tests.txt, for torch.compile a C++ compiler and Python's
headers, and 8 GB of memory. On two cores a whole run takes about 40 minutes; nothing else should
run meanwhile.
Exit code 0 if every run that could be made was made and all checks passed, whatever the goals say.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from compare_lib import checks, goals, report, world
from compare_lib.runner import Runner, RunFailed
from compare_lib.variants import all_variants

REPOSITORY = Path(__file__).resolve().parents[1]


def say(text):
    print(f"compare: {text}", file=sys.stderr, flush=True)


class Session:
    """All runs of all rounds, and what is known of each variant."""

    def __init__(self, runner, variants, rounds):
        self.runner, self.variants, self.rounds = runner, variants, rounds
        self.runs = {v.name: {} for v in variants}  # name -> {round: run}
        self.wall_s = {}  # name -> seconds of its latest run, processes included
        self.trouble = {}  # name -> (status, reason)
        for variant in variants:
            reason = runner.missing_option(variant) if variant.is_program else None
            if reason:
                self.trouble[variant.name] = ("skipped", reason)
                say(f"{variant.name} skipped: {reason}")

    def run_all(self, after_round):
        for round_number in range(self.rounds):
            order = self.variants if round_number % 2 == 0 else self.variants[::-1]
            for position, variant in enumerate(order):
                if variant.name not in self.trouble:
                    self.run_once(variant, round_number)
                    left = [v for v in order[position + 1:] if v.name not in self.trouble]
                    self.show(variant, round_number, left)
            after_round()

    def run_once(self, variant, round_number):
        start = time.monotonic()
        try:
            self.runs[variant.name][round_number] = self.runner.run(variant)
        except RunFailed as failure:
            # A value that the help lists but this combination does not take yet.
            refused = failure.is_refused and variant.options
            self.trouble[variant.name] = ("skipped" if refused else "failed", str(failure))
        self.wall_s[variant.name] = time.monotonic() - start

    def show(self, variant, round_number, left_in_round):
        after = [v for v in self.variants if v.name not in self.trouble]
        left = left_in_round + after * (self.rounds - 1 - round_number)
        left_s = sum(self.expected_s(v) for v in left)
        run = self.runs[variant.name].get(round_number)
        figure = f"{run['seconds_per_step']:.3f} s/step" if run else self.trouble[variant.name][0]
        say(f"round {round_number + 1}/{self.rounds}  {variant.name:44} {figure:16} "
            f"about {left_s / 60:.0f} min left")

    def expected_s(self, variant):
        """Of its last run, else the mean of its stack, else the mean of all so far."""
        known = [v for v in self.variants if v.name in self.wall_s]
        alike = ([v for v in known if v.name == variant.name]
                 or [v for v in known if v.stack == variant.stack] or known)
        return sum(self.wall_s[v.name] for v in alike) / len(alike)

    def describe(self, variant):
        entry = dataclasses.asdict(variant) | {"options": dict(variant.options)}
        runs = self.runs[variant.name]
        status, reason = self.trouble.get(variant.name, ("done", None))
        if runs:
            entry |= {"summary": report.summarize(runs), "runs": list(runs.values())}
        return entry | {"status": status, "reason": reason}


def describe_comparisons(session, thread_counts):
    """Those of which a run was asked for on both sides."""
    found = []
    for comparison in goals.all_comparisons(thread_counts):
        if {comparison.variant, comparison.baseline} <= session.runs.keys():
            entry = dataclasses.asdict(comparison) | {"cell": comparison.label}
            found.append(entry | {"measured": goals.evaluate(comparison, session.runs)})
    return found


def thread_list(text):
    counts = [int(part) for part in text.split(",")]
    if not counts or min(counts) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers of threads like 1,2, found {text}")
    return sorted(set(counts))


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vaccine", type=Path, default=REPOSITORY / "build/release/vaccine",
                        help="the program (default build/release/vaccine)")
    parser.add_argument("--quick", action="store_true",
                        help="a toy model, one thread, one round: to see it work")
    parser.add_argument("--only", type=re.compile, metavar="PATTERN",
                        help="runs whose name has this regular expression")
    parser.add_argument("--list", action="store_true", help="print the names of the runs and end")
    parser.add_argument("--rounds", type=int, help="(default 3; --quick 1)")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a run (default "
                        "%(default)s)")
    parser.add_argument("--threads", type=thread_list, help="(default 1,2; --quick 1)")
    parser.add_argument("--data", type=Path, help="alpaca JSON (lines) for the reference batches; "
                        "default: generated lengths, see compare_lib/world.py")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.model; default: one trained on "
                        "the data")
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--work", type=Path, help="directory for checkpoint and runs, new or "
                        "empty, kept (default: a temporary one)")
    parser.add_argument("--mpiexec", default="mpirun", help="(default %(default)s)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds after which a run has "
                        "failed (default %(default)s)")
    arguments = parser.parse_args(argv)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    arguments.threads = arguments.threads or ([1] if arguments.quick else [1, 2])
    if arguments.rounds < 1 or arguments.steps < 1:
        parser.error("--rounds and --steps must be at least 1")
    return arguments


def check_packages():
    missing = [name for name in (*report.PACKAGES, "sentencepiece")
               if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"compare: {sys.executable} lacks {', '.join(missing)}; run this with the "
                         "Python of .venv (tools/requirements-tests.txt)")


@contextlib.contextmanager
def work_directory(path):
    if path is None:
        with tempfile.TemporaryDirectory(prefix="compare-") as temporary:
            yield Path(temporary)
        return
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise SystemExit(f"compare: --work {path}: expected a new or empty directory")
    yield path.resolve()


def publish(path, document):
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(temporary, path)


def compare(arguments, variants, work):
    """Makes all runs; returns the document that is reported. The file has it after every round."""
    most_steps = max(v.total_steps(arguments.steps) for v in variants)
    shape = world.QUICK_SHAPE if arguments.quick else world.Shape()
    made = world.build(arguments, work, shape, most_steps)
    document = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "machine": report.describe_machine(),
                "versions": report.describe_versions(arguments.vaccine),
                "settings": {"rounds": arguments.rounds, "steps": arguments.steps,
                             "threads": arguments.threads, "quick": arguments.quick},
                "world": made.summary}
    session = Session(Runner(arguments, made, work), variants, arguments.rounds)
    start = time.monotonic()

    def conclude():
        document.update({
            "seconds": time.monotonic() - start, "load_average_after": os.getloadavg()[0],
            "variants": {v.name: session.describe(v) for v in variants},
            "comparisons": describe_comparisons(session, arguments.threads),
            "checks": checks.compare_runs(variants, session.runs)})
        if arguments.output:
            publish(arguments.output, document)

    session.run_all(conclude)
    return document


def main(argv=None):
    arguments = parse_arguments(argv)
    variants = [v for v in all_variants(arguments.threads)
                if not arguments.only or arguments.only.search(v.name)]
    if arguments.list or not variants:
        print("\n".join(v.name for v in variants) or f"no run matches {arguments.only.pattern}")
        return 0 if variants else 2
    arguments.vaccine = arguments.vaccine.resolve()
    if not os.access(arguments.vaccine, os.X_OK):
        raise SystemExit(f"compare: {arguments.vaccine} is no program; --vaccine names it")
    check_packages()
    with work_directory(arguments.work) as work:
        document = compare(arguments, variants, work)
    for line in report.lines(document):
        print(line)
    failed = (any(entry["status"] == "failed" for entry in document["variants"].values())
              or not all(check["passed"] for check in document["checks"]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

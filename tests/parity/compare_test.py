#!/usr/bin/env python3
"""benchmarks/compare.py: that ratios are what they are called, that every run serves a comparison,
that different work on the two sides is noticed, and, with a toy model, that a whole session reports
what it measured and survives a run that fails. No figure is asserted."""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

OPTIONS = argparse.Namespace()


def load_parts():
    sys.path.insert(0, str(OPTIONS.source / "benchmarks"))
    global compare, checks, goals, report, variants, world
    import compare
    from compare_lib import checks, goals, report, variants, world


def fake_run(seconds, sequences=5, peak_bytes=100, loss=2.0, tokens=(500, 500)):
    return {"seconds_per_step": seconds, "sequences": sequences, "peak_bytes": peak_bytes,
            "losses": [loss, 1.0], "tokens": list(tokens), "label_tokens": [400, 400],
            "step_s": [seconds]}


class RatioTest(unittest.TestCase):
    def comparison(self, quantity, goal=None, **changes):
        return goals.Comparison("row", "cell", "a", "b", quantity, goal, **changes)

    def value(self, quantity, variant, baseline):
        return self.comparison(quantity).value(variant, baseline)

    def test_quantities(self):
        fast, slow = fake_run(2.0, peak_bytes=30), fake_run(3.0, peak_bytes=120)
        self.assertAlmostEqual(self.value("speed", fast, slow), 1.5)
        self.assertAlmostEqual(self.value("cost", slow, fast), 1.5)
        self.assertAlmostEqual(self.value("memory", fast, slow), 0.25)
        # Two ranks do twice the sequences in 3 s that one does in 2 s.
        self.assertAlmostEqual(self.value("throughput", fake_run(3.0, 10), fast), 4 / 3)

    def test_a_goal_is_a_floor_or_a_ceiling(self):
        for quantity, good, bad in [("speed", 1.6, 1.4), ("throughput", 1.6, 1.4),
                                    ("cost", 1.4, 1.6), ("memory", 1.4, 1.6)]:
            comparison = self.comparison(quantity, 1.5)
            self.assertTrue(comparison.reached(good), quantity)
            self.assertFalse(comparison.reached(bad), quantity)
            self.assertIsNone(self.comparison(quantity).reached(good))

    def test_ratios_are_taken_within_a_round(self):
        # Round 2 was twice as slow for both; round 1 lacks the baseline.
        runs = {"a": {0: fake_run(1.0), 1: fake_run(9.0), 2: fake_run(2.0)},
                "b": {0: fake_run(2.0), 2: fake_run(4.0)}}
        found = goals.evaluate(self.comparison("speed", 1.5), runs)
        self.assertEqual(found["values"], [2.0, 2.0])
        self.assertTrue(found["reached"])
        self.assertIsNone(goals.evaluate(self.comparison("speed"), {"a": runs["a"], "b": {}}))

    def test_verdicts(self):
        missed = {"goal": 3.0, "measured": {"reached": False}, "needs_amx": True}
        self.assertEqual(report.verdict(missed, has_amx=True), "no")
        self.assertEqual(report.verdict(missed, has_amx=False), "no (no AMX)")
        self.assertEqual(report.verdict(missed | {"needs_amx": False}, has_amx=False), "no")
        self.assertEqual(report.verdict(missed | {"measured": None}, True), "not measured")
        self.assertEqual(report.verdict(missed | {"measured": {"reached": True}}, True), "yes")


class PlanTest(unittest.TestCase):
    def test_every_run_serves_a_comparison(self):
        made = variants.all_variants([1, 2])
        names = [v.name for v in made]
        self.assertEqual(len(names), len(set(names)))
        used = [c for c in goals.all_comparisons([1, 2]) if {c.variant, c.baseline} <= set(names)]
        self.assertEqual({n for c in used for n in (c.variant, c.baseline)}, set(names))

    def test_every_goal_is_measured(self):
        """A misspelt run would drop its goal from the table: these are all rows that have one."""
        names = {v.name for v in variants.all_variants([1, 2])}
        rows = [c.row for c in goals.all_comparisons([1, 2])
                if c.goal is not None and {c.variant, c.baseline} <= names]
        expected = {  # 2 thread counts, LoRA and full, fp32 and bf16, unless noted
            "SFT against Python": 8, "SFT against torch.compile": 4,
            "Vaccine against Python, pass 1 in bf16": 4, "Vaccine against Python": 4,
            "Vaccine / SFT": 4,  # full parameters
            "Vaccine / SFT with recomputation": 4,  # two threads
            "Vaccine with pass 1 in bf16 / SFT": 4,
            "two ranks against one, sft": 4, "two ranks against one, vaccine": 2,
            "two ranks against one, sft, node": 2, "two ranks against FSDP2": 1,
            "sharded with one rank / unsharded": 4,
            "peak memory against Python, sft": 2, "peak memory against Python, vaccine": 2}
        self.assertEqual({row: rows.count(row) for row in rows}, expected)

    def test_reference_lengths_repeat_in_every_batch(self):
        lengths = world.real_lengths(world.random.Random(1), 40)
        batches = [lengths[i:i + 5] for i in range(0, len(lengths), 5)]
        self.assertEqual(len({sum(map(sum, batch)) for batch in batches}), 1)
        self.assertGreater(len(set(map(tuple, batches))), 30)
        self.assertTrue(all(40 <= p <= 70 and 20 <= a <= 120 for p, a in lengths))


class ChecksTest(unittest.TestCase):
    def check(self, program_run, python_run, adapter="lora"):
        made = [v for v in variants.all_variants([1])
                if v.name in (f"{adapter}-fp32-1t/vax-sft", f"{adapter}-fp32-1t/python-sft")]
        runs = {v.name: {0: program_run if v.is_program else python_run} for v in made}
        [result] = checks.compare_runs(made, runs)
        return result["passed"]

    def test_other_work_is_noticed(self):
        expected = fake_run(1.0)
        self.assertTrue(self.check(fake_run(9.0, loss=2.00001), expected))
        self.assertFalse(self.check(fake_run(1.0, loss=2.0001), expected))
        self.assertFalse(self.check(fake_run(1.0, loss=float("nan")), expected))
        self.assertFalse(self.check(fake_run(1.0, tokens=(500, 499)), expected))

    def test_later_steps_count_where_nothing_is_random(self):
        other = fake_run(1.0) | {"losses": [2.0, 1.1]}
        self.assertTrue(self.check(other, fake_run(1.0)))
        self.assertFalse(self.check(other, fake_run(1.0), "full"))

    def test_no_counterpart_no_check(self):
        made = [v for v in variants.all_variants([1]) if v.name == "lora-fp32-1t/vax-sft"]
        self.assertEqual(checks.compare_runs(made, {made[0].name: {0: fake_run(1.0)}}), [])


WRAPPER = """#!{python}
import subprocess, sys
arguments = sys.argv[1:]
if arguments == ["align", "--help"]:
    shown = subprocess.run(["{program}", *arguments], capture_output=True, text=True).stdout
    print(shown.replace("(same | bf16 | fp8)", "(same)"))
elif "--train.recompute" in arguments:
    sys.exit("the wrapper fails on purpose")
else:
    sys.exit(subprocess.run(["{program}", *arguments]).returncode)
"""


class SessionTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def compare(self, *arguments):
        """Exit code, the JSON document and the table."""
        output = self.folder / "compare.json"
        table = io.StringIO()
        with contextlib.redirect_stdout(table), contextlib.redirect_stderr(io.StringIO()):
            exit_code = compare.main(["--quick", "--mpiexec", OPTIONS.mpiexec, "--output",
                                      str(output), *map(str, arguments)])
        return exit_code, json.loads(output.read_text()), table.getvalue()

    def test_program_against_python(self):
        exit_code, document, table = self.compare(
            "--vaccine", OPTIONS.vaccine, "--rounds", 2, "--steps", 3,
            "--only", r"^full-fp32-1t/(python|vax)-sft$")
        self.assertEqual(exit_code, 0, table)
        self.assertEqual(set(document["variants"]),
                         {"full-fp32-1t/python-sft", "full-fp32-1t/vax-sft"})
        for name, entry in document["variants"].items():
            self.assertEqual((entry["status"], len(entry["runs"])), ("done", 2), name)
            for run in entry["runs"]:
                self.assertEqual([len(run["step_s"]), len(run["losses"])], [3, 4], name)
                self.assertGreater(min(run["step_s"]), 0, name)
                self.assertEqual(run["tokens"], [500] * 4, name)
                self.assertEqual(run["label_tokens"], [400] * 4, name)
                self.assertGreater(run["peak_bytes"], 10e6, name)
        self.assertGreater(document["variants"]["full-fp32-1t/vax-sft"]["summary"]["memory_bytes"],
                           10e6)
        self.check_comparisons(document)
        self.assertEqual([c["passed"] for c in document["checks"]], [True])
        self.assertIn(document["machine"]["processor"], table)
        for row in ("SFT against Python", "peak memory against Python, sft", "equal tokens"):
            self.assertIn(row, table)

    def check_comparisons(self, document):
        measured = {c["row"]: c["measured"] for c in document["comparisons"]}
        self.assertEqual(set(measured), {"SFT against Python", "peak memory against Python, sft"})
        program, python = (document["variants"][f"full-fp32-1t/{stack}-sft"]["runs"]
                           for stack in ("vax", "python"))
        values = measured["SFT against Python"]["values"]
        for value, a, b in zip(values, program, python, strict=True):
            self.assertAlmostEqual(value, b["seconds_per_step"] / a["seconds_per_step"])

    def test_a_run_that_fails_or_cannot_be_made(self):
        wrapper = self.folder / "wrapper.py"
        wrapper.write_text(WRAPPER.format(python=sys.executable, program=OPTIONS.vaccine))
        wrapper.chmod(0o755)
        exit_code, document, table = self.compare(
            "--vaccine", wrapper, "--only", "^lora-fp32-1t/vax-(vaccine|sft-recompute|sft$)")
        entries = document["variants"]
        self.assertEqual(exit_code, 1, table)
        self.assertEqual({name.split("/")[1]: entry["status"] for name, entry in entries.items()},
                         {"vax-vaccine": "done", "vax-sft": "done", "vax-vaccine-probe": "skipped",
                          "vax-sft-recompute": "failed", "vax-vaccine-recompute": "failed"})
        self.assertIn("fails on purpose", entries["lora-fp32-1t/vax-sft-recompute"]["reason"])
        self.assertIn("exit code 1", entries["lora-fp32-1t/vax-sft-recompute"]["reason"])
        self.assertIn("does not list", entries["lora-fp32-1t/vax-vaccine-probe"]["reason"])
        measured = {c["row"]: c["measured"] for c in document["comparisons"]}
        self.assertIsNone(measured["Vaccine / SFT with recomputation"])
        self.assertIsNotNone(measured["Vaccine / SFT"])
        self.assertIn("not measured", table)

    def test_bad_arguments_are_refused(self):
        command = [sys.executable, OPTIONS.source / "benchmarks" / "compare.py"]
        for arguments, message in [(["--vaccine", self.folder / "none"], "is no program"),
                                   (["--threads", "0"], "expected numbers of threads"),
                                   (["--only", "no such run"], "no run matches")]:
            done = subprocess.run([str(a) for a in command + arguments], capture_output=True,
                                  text=True, check=False)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(message, done.stdout + done.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vaccine", required=True, type=Path)
    parser.add_argument("--source", required=True, type=Path)
    parser.add_argument("--mpiexec", required=True)
    parser.add_argument("--numproc-flag", required=True)
    _, rest = parser.parse_known_args(namespace=OPTIONS)
    load_parts()
    unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()

"""The table of operators (src/ops/operators.cmake) and the tree agree, an operator is at most five
files of its name, and the vector loops leave nothing for the linker to confuse."""

import argparse
import re
import subprocess
import sys
import unittest
from pathlib import Path

FOLDERS = ("src/ops", "src/ops/device", "src/ops/kernels", "tests/unit/ops")
TARGETS = ("generic", "avx2", "avx512", "avx512bf16")


def table(source):
    """{name: suffixes} of the operators, and of the parts of several."""
    operators, parts = {}, {}
    lines = (source / "src/ops/operators.cmake").read_text().splitlines()
    for kind, name, flags in re.findall(r"^vax_operator(|_part)\((\w+)(.*)\)$", "\n".join(lines),
                                        re.MULTILINE):
        suffixes = {".h"} | ({".inl"} if "LOOPS" in flags else set())
        suffixes |= {".cu"} if "KERNELS" in flags else set()
        (parts if kind else operators)[name] = suffixes
    return operators, parts


def owner(stem, names):
    """The operator whose files are called so: the longest name that the stem begins with."""
    fitting = [n for n in names if stem == n or stem.startswith(n + "_")]
    return max(fitting, key=len, default=None)


class OperatorsTest(unittest.TestCase):
    def setUp(self):
        self.operators, self.parts = table(ARGS.source)

    def test_an_operator_is_its_files_and_nothing_else(self):
        names = [*self.operators, *self.parts]
        found = {name: [] for name in names}
        for folder in FOLDERS:
            for path in sorted((ARGS.source / folder).iterdir()):
                name = owner(path.stem, names)
                if path.is_file() and name is not None:
                    found[name].append(f"{folder}/{path.name}")
        for name, suffixes in self.operators.items():
            expected = [f"src/ops/{name}{suffix}" for suffix in sorted(suffixes | {".cpp"})]
            expected.append(f"tests/unit/ops/{name}_test.cpp")
            self.assertEqual(found[name], expected)
            self.assertLessEqual(len(expected), 5)
        for name, suffixes in self.parts.items():
            missing = {f"src/ops/{name}{suffix}" for suffix in suffixes} - set(found[name])
            self.assertFalse(missing, name)

    def test_every_loop_and_kernel_is_in_the_table(self):
        for suffix in (".inl", ".cu"):
            there = {p.stem for p in (ARGS.source / "src/ops").glob("*" + suffix)}
            listed = {n for n, s in {**self.operators, **self.parts}.items() if suffix in s}
            self.assertEqual(there, listed)

    def test_an_instruction_set_defines_names_of_its_own_only(self):
        symbols = subprocess.run(["nm", "-C", "--defined-only", ARGS.library], check=True, text=True,
                                 capture_output=True).stdout
        checked, target = set(), None
        for line in symbols.splitlines():
            if member := re.fullmatch(r"(\S+)\.o:", line):
                named = re.fullmatch(r"target_(\w+)\.cpp", member[1])
                target = named[1] if named else None
            elif target and (symbol := re.fullmatch(r"[0-9a-f]* ([A-Zu]) (.*)", line)):
                self.assertIn(f"vax::ops::{target}::", symbol[2], "of external linkage")
                checked.add(target)
        self.assertLessEqual(checked, set(TARGETS))
        self.assertIn("generic", checked)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--library", type=Path, required=True)
    ARGS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest])

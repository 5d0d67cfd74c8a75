"""Reads checkpoints with h5py and sha256sum, as their users do.

Usage: checkpoint_files_parity.py WRITE_CHECKPOINT, the program built from
tests/unit/io/write_checkpoint.cpp. All numbers are stored, not computed, so every comparison is
exact; their formulas are those of tests/unit/io/sample_checkpoint.cpp.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np

WRITE_CHECKPOINT = sys.argv[1]
# Name: unit, offset within it, shape.
TRAINABLE = {
    "model.layers.0.q_proj.weight": (0, 0, (6, 5)),
    "model.layers.0.norm.weight": (0, 32, (7,)),
    "model.layers.0.conv.weight": (0, 48, (2, 3, 4)),
    "lm_head.weight": (1, 0, (3, 3)),
}
FROZEN = {"model.embed_tokens.weight": (2, 0, (11, 4))}
KINDS = ["parameters", "optimizer/exp_avg", "optimizer/exp_avg_sq"]


def elements(unit, kind, offset, shape, bf16):
    """Of a parameter, as sample_element() has them."""
    i = offset + np.arange(np.prod(shape))
    numbers = (i + unit) % 250 if bf16 else 10000 * unit + 1000 * kind + i + 0.25
    return numbers.astype(np.float32).reshape(shape)


class Checkpoints(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name)
        previous = os.getcwd()
        self.addCleanup(os.chdir, previous)

    def write(self, ranks):
        path = self.root / f"np{ranks}"
        subprocess.run([WRITE_CHECKPOINT, "sample", path, str(ranks)], check=True)
        return path

    def check_index(self, path):
        with h5py.File(path) as index:
            self.assertEqual(index.attrs["step"], 120)
            self.assertEqual(index.attrs["schema_version"], 1)
            self.assertEqual(index.attrs["config"], "[train]\nlr = 0.001\n")
            self.assertEqual(index.attrs["program_version"], "0.1.0")
            for number, kind in enumerate(KINDS):
                present = TRAINABLE | (FROZEN if kind == "parameters" else {})
                self.assertEqual(set(index[kind]), set(present))
                for name, (unit, offset, shape) in present.items():
                    bf16 = name in FROZEN or kind == "optimizer/exp_avg_sq"
                    dataset = index[kind][name]
                    self.assertEqual(dataset.dtype, np.float32, name)
                    np.testing.assert_array_equal(
                        dataset[()], elements(unit, number, offset, shape, bf16), f"{kind} {name}")

    def test_every_array_is_whole_on_any_number_of_ranks(self):
        for ranks in (1, 2, 3, 4, 5, 7, 30):
            with self.subTest(ranks=ranks):
                self.check_index(self.write(ranks) / "index.h5")

    def test_directory_can_be_moved_and_read_from_anywhere(self):
        moved = self.root / "elsewhere" / "step-000120"
        moved.parent.mkdir()
        self.write(3).rename(moved)
        os.chdir("/")
        self.check_index(moved / "index.h5")
        os.chdir(moved)
        self.check_index("index.h5")
        os.chdir(moved.parent)
        self.check_index("step-000120/index.h5")

    def test_a_file_of_one_rank_by_itself(self):
        path = self.write(2)
        with h5py.File(path / "rank-00001.h5") as file:
            slice_ = file["trainable/optimizer/exp_avg/model.layers.0"]
            np.testing.assert_array_equal(slice_[()], elements(0, 1, 36, (36,), False))
            self.assertEqual(file["frozen/parameters/model.embed_tokens"].dtype, np.float32)

    def test_hashes_as_sha256sum_has_them(self):
        path = self.write(2)
        subprocess.run(["sha256sum", "--check", "--strict", "manifest.json.sha256"], cwd=path,
                       check=True, stdout=subprocess.DEVNULL)
        manifest = json.loads((path / "manifest.json").read_text())
        names = [file["name"] for file in manifest["files"]]
        self.assertEqual(names, ["rank-00000.h5", "rank-00001.h5", "index.h5"])
        for file in manifest["files"]:
            content = (path / file["name"]).read_bytes()
            self.assertEqual(len(content), file["bytes"])
            self.assertEqual(hashlib.sha256(content).hexdigest(), file["sha256"])

    def test_the_index_of_a_large_model(self):
        written = subprocess.run([WRITE_CHECKPOINT, "large", self.root], check=True, text=True,
                                 capture_output=True)
        print("80 layers, 9 tensors, 3 arrays, 8 ranks:", written.stdout.strip())
        with h5py.File(self.root / "index.h5") as index:
            self.assertEqual(len(index["optimizer/exp_avg"]), 720)
            dataset = index["parameters/model.layers.79.up_proj.weight"]
            self.assertEqual(dataset.shape, (28672, 8192))
            covered = sum(np.prod(np.subtract(end, begin) + 1, dtype=np.int64)
                          for begin, end in (source.vspace.get_select_bounds()
                                             for source in dataset.virtual_sources()))
            self.assertEqual(covered, 28672 * 8192)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

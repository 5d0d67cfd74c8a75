"""Reads the files of io/ with h5py, xarray, pandas, safetensors, peft and transformers.

Usage: files_parity.py WRITE_SAMPLES, the program built from tests/unit/io/write_samples.cpp.
All numbers are stored, not computed, so every comparison is exact. The formulas of the expected
numbers are those of tests/unit/io/sample_records.h.
"""

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import unittest
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is on this machine

import h5py
import numpy as np
import pandas
import torch
import transformers
import xarray
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from safetensors import safe_open

from hdf5_compare import assert_same_hdf5

transformers.utils.logging.disable_progress_bar()

WRITE_SAMPLES = sys.argv[1]
STEPS, DRIFT_STEPS, TWO_PASS_STEPS = 6, [2, 4, 6], [1, 3, 5]
LAYERS, BATCHES = 3, 2


def write_samples(*arguments, check=True):
    return subprocess.run(
        [WRITE_SAMPLES, *map(str, arguments)], check=check, capture_output=True, text=True
    )


class Scratch(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.dir = Path(directory.name)


class RunFiles(Scratch):
    def setUp(self):
        super().setUp()
        write_samples("run", self.dir)
        self.h5 = self.dir / "run.h5"

    def jsonl(self, event):
        lines = [json.loads(line) for line in (self.dir / "run.jsonl").read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def test_metrics_as_a_data_frame(self):
        with h5py.File(self.h5) as file:
            frame = pandas.DataFrame(file["metrics/train"][:])
            units = dict(zip(frame.columns, file["metrics/train"].attrs["units"]))
        self.assertEqual(units["step_s"], "s")
        self.assertEqual(units["memory_bytes"], "byte")
        self.assertEqual(units["comm_bytes"], "byte")
        self.assertEqual(frame.comm_bytes.tolist(), [2**33 + step for step in frame.step])
        self.assertEqual(frame.probe_cosine.dropna().tolist(), [1 - 1 / 64, 1 - 4 / 64])
        steps = self.jsonl("step")
        self.assertEqual(len(frame), STEPS)
        one_number = [key for key in steps[0] if key not in ("event", "layer_grad_norm")]
        self.assertEqual(list(frame.columns), one_number)
        self.assertTrue(math.isnan(frame.clean_loss[4]))  # infinite, which JSON has no word for
        for column in ("step", "sequences", "tokens", "label_tokens", "comm_bytes",
                       "memory_bytes"):
            self.assertEqual(frame[column].dtype, np.int64)
        for row, expected in zip(frame.to_dict("records"), steps):
            for key, value in row.items():
                if expected[key] is None:
                    self.assertTrue(math.isnan(value), key)
                else:
                    self.assertEqual(value, expected[key], key)

    def test_drift_as_a_dataset(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with xarray.open_dataset(self.h5, group="drift", engine="h5netcdf") as dataset:
                dataset.load()
        self.assertEqual(dataset.l2sq.dims, ("step", "layer", "batch"))
        self.assertEqual(dataset.tokens.dims, ("step", "batch"))
        self.assertEqual(dataset.samples.dims, ("step",))
        for name in ("relative", "cosine", "cka"):
            self.assertEqual(dataset[name].dims, ("step", "layer"))
        self.assertEqual(dataset.step.values.tolist(), DRIFT_STEPS)
        self.assertEqual(dataset.layer.values.tolist(), list(range(LAYERS)))
        self.assertEqual(dataset.batch.values.tolist(), list(range(BATCHES)))
        self.assertEqual(dataset.l2sq.sel(step=4, layer=2, batch=1), 421)
        self.assertEqual(dataset.cka.sel(step=6, layer=1), 610.3)
        self.assertEqual(dataset.tokens.sel(step=2, batch=1), 82)
        self.assertIn("long_name", dataset.l2sq.attrs)
        self.assertEqual(dataset.l2sq.attrs["units"], "1")
        # The line of run.jsonl sums over the batches.
        for event in self.jsonl("drift"):
            stored = dataset.sel(step=event["step"])
            self.assertEqual(event["batches"]["l2sq"], stored.l2sq.values.tolist())
            self.assertEqual(event["batches"]["tokens"], stored.tokens.values.tolist())
            for layer in event["layers"]:
                stored = dataset.l2sq.sel(step=event["step"], layer=layer["layer"])
                self.assertEqual(float(stored.sum()), layer["l2sq"])

    def test_default_engine_finds_the_file_too(self):
        with xarray.open_dataset(self.h5, group="drift") as dataset:
            self.assertEqual(dataset.l2sq.shape, (len(DRIFT_STEPS), LAYERS, BATCHES))

    def test_perturbation(self):
        with xarray.open_dataset(self.h5, group="perturbation") as dataset:
            self.assertEqual(dataset.grad_norm.dims, ("step", "layer"))
            self.assertEqual(dataset.step.values.tolist(), TWO_PASS_STEPS)
            total = np.sqrt((dataset.grad_norm**2).sum("layer").values)
            norms = [s["layer_grad_norm"] for s in self.jsonl("step")]
            self.assertEqual([n for n in norms if n], dataset.grad_norm.values.tolist())
        hidden = [s["hidden_grad_norm"] for s in self.jsonl("step")]
        self.assertEqual([h is not None for h in hidden], [True, False] * 3)
        # Three squares summed in another order: one unit in the last place at most per addition.
        np.testing.assert_allclose(total, [h for h in hidden if h is not None], rtol=1e-15)

    def test_memory(self):
        parts = ["weights", "slots", "activations"]
        planned, measured = [2**40 + 1, 0, 5], [2**40 + 2, 3, 4]
        with h5py.File(self.h5) as file:
            group = file["memory"]
            self.assertEqual(group["part"].asstr()[:].tolist(), parts)
            for name, expected in (("planned_bytes", planned), ("measured_bytes", measured)):
                self.assertEqual(group[name].dtype, np.int64)
                self.assertEqual(group[name][:].tolist(), expected)
                self.assertEqual(group[name].attrs["units"], "byte")
                self.assertEqual(group[name].dims[0]["part"], group["part"])
            self.assertEqual(group.attrs["process_bytes"], 2**41 + 6)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with xarray.open_dataset(self.h5, group="memory") as dataset:
                dataset.load()
        self.assertEqual(dataset.part.values.tolist(), parts)
        self.assertEqual(dataset.planned_bytes.dims, ("part",))
        self.assertEqual(dataset.planned_bytes.sel(part="weights"), 2**40 + 1)
        self.assertEqual(dataset.measured_bytes.sel(part="activations"), 4)
        self.assertEqual(dataset.attrs["process_bytes"], 2**41 + 6)
        (event,) = self.jsonl("memory")
        self.assertEqual(list(event["parts"]), parts)
        for part, of_part in event["parts"].items():
            for name, value in of_part.items():
                self.assertEqual(dataset[name].sel(part=part), value)
        self.assertEqual(event["process_bytes"], 2**41 + 6)

    def test_root_attributes(self):
        with h5py.File(self.h5) as file:
            self.assertEqual(file.attrs["schema_version"], 1)
            self.assertEqual(file.attrs["config"], "[train]\nlr = 0.002\n")  # of the resumed run
            self.assertEqual(file.attrs["program_version"], "0.1.0")

    def test_rebuilt_file_is_the_same(self):
        rebuilt = self.dir / "rebuilt.h5"
        write_samples("rebuild", self.dir / "run.jsonl", rebuilt)
        with h5py.File(self.h5) as first, h5py.File(rebuilt) as second:
            objects = assert_same_hdf5(first, second)
        for name in ("metrics/train", "perturbation/grad_norm", "drift/l2sq", "memory/part"):
            self.assertIn(name, objects)

    def test_bf16_reads_as_a_float(self):
        with h5py.File(self.dir / "bf16.h5") as file:
            values = file["w"].astype("f4")[:]
        expected = np.array([0x3F800000, 0xC0200000, 0x00010000, 0x7F7F0000], dtype=np.uint32)
        np.testing.assert_array_equal(values.view(np.uint32), expected)

    def test_full_disk_ends_in_an_error_not_in_a_crash(self):
        # A file-size limit stands in for the full disk. Python ignores its signal, and
        # restore_signals=False hands that on. HDF5's exit handler would crash after the failure.
        result = subprocess.run(
            [WRITE_SAMPLES, "run", self.dir],
            capture_output=True,
            text=True,
            restore_signals=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20480, 20480)),
        )
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("run.h5", result.stderr)

    def test_safetensors(self):
        with safe_open(self.dir / "mixed.safetensors", framework="pt") as file:
            self.assertEqual(file.metadata(), {"format": "pt"})
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        self.assertEqual(set(tensors), {"bf16", "fp32", "scalar"})
        self.assertEqual(tensors["bf16"].dtype, torch.bfloat16)
        self.assertEqual(tensors["bf16"].view(torch.int16)[0, 0].item(), 0x3F80)
        self.assertTrue(torch.equal(tensors["fp32"], torch.arange(6.0).reshape(2, 3)))
        self.assertEqual(tensors["scalar"].item(), -7)


def tiny_llama(dtype=torch.float32):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
    )
    return transformers.LlamaForCausalLM(config).to(dtype)


class Models(Scratch):
    def rewritten(self, model, **save_options):
        model.save_pretrained(self.dir / "in", **save_options)
        write_samples("model", self.dir / "in", self.dir / "out")
        loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
            self.dir / "out", dtype=model.dtype, output_loading_info=True
        )
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            self.assertFalse(info[kind], kind)
        for (name, expected), (_, found) in zip(
            model.state_dict().items(), loaded.state_dict().items(), strict=True
        ):
            self.assertTrue(torch.equal(expected, found), name)

    def test_single_file(self):
        self.rewritten(tiny_llama())
        self.assertGreater(len(list((self.dir / "out").glob("model-*.safetensors"))), 1)

    def test_shards_in_bf16(self):
        self.rewritten(tiny_llama(torch.bfloat16), max_shard_size="5KB")
        self.assertGreater(len(list((self.dir / "in").glob("model-*.safetensors"))), 1)

    def test_pickle_is_refused(self):
        (self.dir / "in").mkdir()
        torch.save({}, self.dir / "in" / "pytorch_model.bin")
        result = write_samples("model", self.dir / "in", self.dir / "out", check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn("save_pretrained", result.stderr)


class Adapters(Scratch):
    def adapted(self, **options):
        config = LoraConfig(
            r=3, lora_alpha=6, lora_dropout=0.05, task_type="CAUSAL_LM",
            target_modules=["q_proj", "v_proj", "down_proj"], **options
        )
        model = get_peft_model(tiny_llama(), config)
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # peft starts with zeros, which would hide a mix-up
                torch.nn.init.normal_(parameter)
        return model

    def test_adapter_of_peft_survives_reading_and_writing(self):
        model = self.adapted()
        model.save_pretrained(self.dir / "in")
        write_samples("adapter", self.dir / "in", self.dir / "out")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # peft warns of missing keys
            loaded = PeftModel.from_pretrained(tiny_llama(), self.dir / "out")
        result = set_peft_model_state_dict(loaded, load_peft_weights(self.dir / "out"))
        self.assertEqual(result.unexpected_keys, [])
        self.assertEqual([key for key in result.missing_keys if "lora_" in key], [])
        config = loaded.peft_config["default"]
        self.assertEqual((config.r, config.lora_alpha, config.lora_dropout), (3, 6, 0.05))
        self.assertEqual(config.target_modules, {"q_proj", "v_proj", "down_proj"})
        self.assertTrue(config.inference_mode)
        expected = dict(model.named_parameters())
        found = dict(loaded.named_parameters())
        self.assertEqual(set(expected), set(found))
        for name, parameter in expected.items():
            self.assertTrue(torch.equal(parameter, found[name]), name)

    def test_keys_match_exactly(self):
        model = self.adapted()
        model.save_pretrained(self.dir / "in")
        write_samples("adapter", self.dir / "in", self.dir / "out")
        keys = []
        for directory in ("in", "out"):
            path = self.dir / directory / "adapter_model.safetensors"
            with safe_open(path, framework="pt") as file:
                keys.append(sorted(file.keys()))
        self.assertEqual(*keys)

    def test_other_kinds_of_adapter_are_refused(self):
        for options in (
            {"use_rslora": True},
            {"use_dora": True},
            {"rank_pattern": {"q_proj": 2}},
            {"bias": "lora_only"},
            {"modules_to_save": ["lm_head"]},
            {"layers_to_transform": [0]},
            {"init_lora_weights": "olora"},
        ):
            with self.subTest(options):
                self.adapted(**options).save_pretrained(self.dir / "in")
                result = write_samples("adapter", self.dir / "in", self.dir / "out", check=False)
                self.assertEqual(result.returncode, 1)
                self.assertIn(next(iter(options)), result.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

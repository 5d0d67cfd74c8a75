#!/usr/bin/env python3
"""The Python side of gpu_check.py: training steps of transformers + peft on one device, SFT and
Vaccine as two hooked passes in turn, on a model with random weights that is made on the device.

The steps are those of compare_lib/python_stack.py: padded batch, clipping, fused AdamW; bf16 means
the frozen model in bf16 with fp32 factors for LoRA, fp32 weights under autocast for full
parameters. One JSON object a line and method on standard output, with the fields of step_benchmark.
"""

import argparse
import json
import statistics
import sys
import time
import warnings

import torch
import transformers
from compare_lib import python_stack
from peft import LoraConfig, get_peft_model

SHAPES = {"toy": (64, 176, 2, 4, 512), "134m": (768, 2048, 12, 12, 32000),
          "7b": (4096, 11008, 32, 32, 32000), "13b": (5120, 13824, 40, 40, 32000)}


def make_model(options):
    hidden, ffn, layers, heads, vocabulary = SHAPES[options.model]
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=ffn,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=4096, use_cache=False)
    lora = options.adapter == "lora"
    dtype = torch.bfloat16 if lora and options.dtype == "bf16" else torch.float32
    with torch.device(options.device):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=options.attention)
        if lora:
            model = get_peft_model(model, LoraConfig(
                r=8, lora_alpha=4, lora_dropout=0.1, target_modules=python_stack.PROJECTIONS,
                bias="none", task_type="CAUSAL_LM"))
    return model.to(options.device).train()


def make_batch(options, vocabulary):
    """The tokens and labels of step_benchmark, as transformers wants them."""
    rows = torch.arange(options.sequences).unsqueeze(1)
    ids = (rows * 977 + torch.arange(options.tokens) * 131 + 7) % vocabulary
    labels = ids.clone()
    labels[:, :options.tokens - options.labels] = python_stack.IGNORED
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {name: tensor.to(options.device) for name, tensor in batch.items()}


class DeviceTrainer(python_stack.Trainer):
    def __init__(self, options, model):
        self.job = {"clip": 1.0, "rho": 2.0, "lr": 1e-5, "weight_decay": 0.1}
        self.device, self.model = options.device, model
        self.optimizer = python_stack.make_optimizer(model, self.job)
        self.attention = [layer.self_attn for layer in python_stack.decoder_layers(model)]
        self.forward = torch.compile(model) if options.compile else model
        self.autocast = options.dtype == "bf16" and options.autocast == "on"

    def forward_backward(self, batch):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            loss = self.forward(**batch).loss
        loss.backward()
        return loss.detach()


class Device:
    def __init__(self, name):
        self.is_cuda = name == "cuda"

    def name(self):
        return torch.cuda.get_device_name() if self.is_cuda else "host"

    def synchronize(self):
        if self.is_cuda:
            torch.cuda.synchronize()

    def reset_peak(self):
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self):
        return torch.cuda.max_memory_allocated() if self.is_cuda else None


def timed_step(trainer, device, method, batch):
    trainer.job["method"] = method
    device.synchronize()
    start = time.perf_counter()
    loss = float(trainer.step(batch))
    device.synchronize()
    return time.perf_counter() - start, loss


def measure(options, device):
    model = make_model(options)
    trainer = DeviceTrainer(options, model)
    batch = make_batch(options, SHAPES[options.model][4])
    methods = options.methods.split(",")
    found = {method: {"step_s": [], "peak_bytes": 0} for method in methods}
    for round_number in range(-options.warmup, options.rounds):
        for method in methods:
            device.reset_peak()
            seconds, loss = timed_step(trainer, device, method, batch)
            found[method].setdefault("loss", loss)
            found[method]["peak_bytes"] = device.peak_bytes()
            if round_number >= 0:
                found[method]["step_s"].append(seconds)
    return batch, found


def describe(options, device, batch, method, found):
    step_s = statistics.median(found["step_s"])
    tokens = batch["input_ids"].numel()
    return {"stack": "python", "model": options.model, "adapter": options.adapter,
            "dtype": options.dtype, "sequences": options.sequences,
            "sequence_tokens": options.tokens, "method": method, "attention": options.attention,
            "autocast": options.autocast == "on", "compile": options.compile,
            "device": device.name(), "rounds": options.rounds, "tokens": tokens,
            "label_tokens": int((batch["labels"][:, 1:] != python_stack.IGNORED).sum()),
            "step_s": step_s, "step_min_s": min(found["step_s"]),
            "step_max_s": max(found["step_s"]), "tokens_per_s": tokens / step_s,
            "peak_bytes": found["peak_bytes"], "loss": found["loss"]}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="toy")
    parser.add_argument("--adapter", choices=("lora", "full"), default="lora")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--sequences", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--labels", type=int, default=160)
    parser.add_argument("--methods", default="sft,vaccine", help="(default %(default)s)")
    parser.add_argument("--attention", default="sdpa",
                        help="attn_implementation (default %(default)s)")
    parser.add_argument("--autocast", choices=("on", "off"), default="on")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    return parser.parse_args()


def main():
    options = parse_arguments()
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    transformers.set_seed(1)
    device = Device(options.device)
    batch, found = measure(options, device)
    for method, values in found.items():
        print(json.dumps(describe(options, device, batch, method, values)), flush=True)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Models that do not fit a rank: what sharding changes (nothing) and what it costs.

    large_model.py layers  [--ranks 1,2,4] [--dtype bf16]   two layers of Llama-2 70B's dimensions
    large_model.py memory  [--ranks 2] [--dtype bf16]       a model of Llama-2 7B's shape

Both write the model with `vaccine init` into --work (kept, and used again) and run `vaccine align`
under mpirun. Needs Python with numpy and safetensors (.venv has them), a tokenizer.model of at most
32000 pieces (--tokenizer), and memory: `vaccine plan` tells how much.

layers: one Vaccine step from the same adapter, fully sharded over each number of ranks. Gradients
are read off the adapter that the step leaves: with beta1 = beta2 = 0 and eps = lr = 1000 AdamW moves
a weight by -g / (1 + |g| / 1000). Printed against one rank: relative difference of the losses, of
grad_norm and hidden_grad_norm, and the largest difference of a gradient relative to the largest
element of its tensor.

memory: two Vaccine steps; time of a step, load rate, memory of the fullest rank by what it is for,
planned beside measured.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = {
    "layers": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 2,
               "num_attention_heads": 64, "num_key_value_heads": 8},
    "memory": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
               "num_attention_heads": 32},
}
EPS = 1000.0


def run(command, log):
    with open(log, "w", encoding="utf-8") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    text = pathlib.Path(log).read_text(encoding="utf-8", errors="replace")
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\nexit code {done.returncode}\n{text[-2000:]}")
    return text


def events(directory):
    with open(directory / "run.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


class Workspace:
    def __init__(self, options):
        self.options = options
        self.directory = pathlib.Path(options.work)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.model = self.directory / f"{options.what}-{options.dtype}"
        self.data = self.directory / "data.json"
        rows = [{"instruction": f"Say what {i} and {i * i} have in common. " * (1 + i % 3),
                 "output": f"Both are divided by {i}. " * (2 + i % 2)} for i in range(1, 65)]
        self.data.write_text(json.dumps(rows), encoding="utf-8")

    def make_model(self):
        if (self.model / "config.json").exists():
            return
        shape = [text for key, value in SHAPES[self.options.what].items()
                 for text in (f"--init.{key}", str(value))]
        run([self.options.vaccine, "init", "--init.tokenizer_path", self.options.tokenizer,
             "--model.dtype", self.options.dtype, "--output.dir", self.model] + shape,
            self.directory / "init.log")

    def align(self, name, ranks, extra):
        output = self.directory / name
        shutil.rmtree(output, ignore_errors=True)
        command = ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none",
                   self.options.vaccine, "align", "--model.path", self.model, "--model.dtype",
                   self.options.dtype, "--data.path", self.data, "--data.shuffle", "false",
                   "--train.schedule", "constant", "--train.warmup_ratio", "0",
                   "--drift.samples", "1", "--output.dir", output,
                   "--runtime.threads", str(max(1, self.options.cores // ranks))] + extra
        return output, run(list(map(str, command)), self.directory / f"{name}.log")


def relative(value, reference):
    return abs(value - reference) / abs(reference)


def compare_layers(options):
    work = Workspace(options)
    work.make_model()
    start, _ = work.align("start", options.rank_counts[0],
                          ["--train.max_steps", "2", "--train.lr", "1e-2", "--shard.prefetch", "0"])
    before = load_file(start / "adapter" / "adapter_model.safetensors")
    gradient_run = ["--train.max_steps", "1", "--train.global_batch", "8", "--train.beta1", "0",
                    "--train.beta2", "0", "--train.eps", str(EPS), "--train.lr", str(EPS),
                    "--train.weight_decay", "0", "--train.clip", "0", "--shard.prefetch", "0",
                    "--adapter.init", str(start / "adapter")]
    results = []
    for ranks in options.rank_counts:
        output, _ = work.align(f"ranks{ranks}", ranks, gradient_run)
        log = events(output)
        step = next(event for event in log if event["event"] == "step")
        memory = next(event for event in log if event["event"] == "memory")
        after = load_file(output / "adapter" / "adapter_model.safetensors")
        results.append({"ranks": ranks, "step": step, "memory": memory,
                        "gradients": {name: before[name].astype(numpy.float64) - tensor
                                      for name, tensor in after.items()}})
    reference = results[0]
    for result in results:
        worst = max(numpy.abs(result["gradients"][name] - gradient).max() / numpy.abs(gradient).max()
                    for name, gradient in reference["gradients"].items())
        step, first = result["step"], reference["step"]
        print(f"{result['ranks']} ranks: loss {step['loss']:.9f}"
              f"  loss off by {relative(step['loss'], first['loss']):.1e}"
              f"  grad_norm {relative(step['grad_norm'], first['grad_norm']):.1e}"
              f"  hidden_grad_norm "
              f"{relative(step['hidden_grad_norm'], first['hidden_grad_norm']):.1e}"
              f"  gradients at most {worst:.1e}"
              f"  step {step['step_s']:.1f} s"
              f"  process {result['memory']['process_bytes'] / 2**30:.2f} GiB")


def measure_memory(options):
    work = Workspace(options)
    work.make_model()
    num_bytes = sum(file.stat().st_size for file in work.model.glob("*.safetensors"))
    for ranks in options.rank_counts:
        output, text = work.align(f"memory{ranks}", ranks,
                                  ["--train.max_steps", "2", "--train.global_batch", "4",
                                   "--drift.samples", "4"] + options.extra)
        log = events(output)
        load_s = float(re.search(r"loaded in ([0-9.]+) s", text).group(1))
        steps = [event for event in log if event["event"] == "step"]
        print(f"{ranks} ranks, {num_bytes / 1e9:.1f} GB on disk: loaded in {load_s:.1f} s "
              f"({num_bytes / ranks / load_s / 1e9:.2f} GB/s a rank, {num_bytes / load_s / 1e9:.2f} "
              f"in all); steps of {', '.join(str(step['tokens']) for step in steps)} tokens took "
              f"{', '.join(format(step['step_s'], '.1f') for step in steps)} s, of which waiting "
              f"{', '.join(format(step['comm_s'], '.1f') for step in steps)} s")
        memory = next(event for event in log if event["event"] == "memory")
        for name, part in memory["parts"].items():
            print(f"  {name:14} planned {part['planned_bytes'] / 2**20:9.1f} MiB"
                  f"  measured {part['measured_bytes'] / 2**20:9.1f} MiB")
        print(f"  process of the fullest rank {memory['process_bytes'] / 2**30:.2f} GiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("layers", "memory"))
    parser.add_argument("--ranks", default="")
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--tokenizer", default="")
    parser.add_argument("--work", default="large-model")
    parser.add_argument("--vaccine", default=str(ROOT / "build" / "release" / "vaccine"))
    parser.add_argument("--cores", type=int, default=2)
    options, options.extra = parser.parse_known_args()
    ranks = options.ranks or {"layers": "1,2,4", "memory": "2"}[options.what]
    options.rank_counts = [int(count) for count in ranks.split(",")]
    {"layers": compare_layers, "memory": measure_memory}[options.what](options)


if __name__ == "__main__":
    main()

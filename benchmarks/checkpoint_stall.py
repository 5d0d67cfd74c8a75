#!/usr/bin/env python3
"""What checkpoints cost a training run: a 134 M Llama, LoRA and full parameters, with and without.

    checkpoint_stall.py --tokenizer tokenizer.model [--ranks 1] [--interval 5] [--steps 21]
                        [--rounds 3] [--work DIRECTORY]

Runs of `vaccine align` without and with --checkpoint.interval take turns, --rounds times each,
from the same weights, 5 sequences of 100 tokens a step. The model is written by `vaccine init` into
--work (kept, and used again). Printed, medians over all rounds:

  step       a step's time without checkpoints; with: of all steps, and of the one after a
             checkpoint has begun, beside which it is written
  stall      what training waits for a checkpoint (stall_s of run.jsonl), in steps
  overhead   time of the steps and stalls with checkpoints against that without

How fast checkpoints are written and read: benchmarks/checkpoint_benchmark.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPE = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
         "num_attention_heads": 12}
KINDS = {"lora": [], "full": ["--adapter.type", "none"]}


def run(command):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nexit code {done.returncode}\n"
                 f"{done.stdout[-3000:]}")


class Workspace:
    def __init__(self, options):
        self.options, self.directory = options, pathlib.Path(options.work)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.model, self.data = self.directory / "model-134m", self.directory / "data.json"
        # All of them longer than 100 tokens.
        rows = [{"instruction": f"Count from {i}.",
                 "output": " ".join(str(i + j) for j in range(60))} for i in range(1, 101)]
        self.data.write_text(json.dumps(rows), encoding="utf-8")
        if not (self.model / "config.json").exists():
            keys = [part for key, value in SHAPE.items() for part in (f"--init.{key}", value)]
            run([options.vaccine, "init", "--init.tokenizer_path", options.tokenizer,
                 "--model.dtype", "fp32", "--output.dir", self.model, *keys])

    def align(self, kind, name, extra=()):
        """run.jsonl's events"""
        output = self.directory / name
        shutil.rmtree(output, ignore_errors=True)
        launcher = ["mpirun", "-n", self.options.ranks, "--oversubscribe", "--bind-to", "none"]
        run([*launcher, self.options.vaccine, "align", "--model.path", self.model, "--data.path",
             self.data, "--data.max_length", 100, "--data.template", "plain", "--train.max_steps",
             self.options.steps, "--runtime.device", "cpu", "--output.dir", output, *KINDS[kind],
             *extra])
        lines = (output / "run.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def of(events, kind):
    return [event for event in events if event["event"] == kind]


def measure(workspace, kind):
    options = workspace.options
    figures = {name: [] for name in ("without", "with", "beside", "stall", "overhead")}
    interval = ["--checkpoint.interval", options.interval]
    for _ in range(options.rounds):
        plain = workspace.align(kind, "without")
        saving = workspace.align(kind, "with", interval)
        without, with_ = ([step["step_s"] for step in of(events, "step")][1:]  # the first allocates
                          for events in (plain, saving))
        stalls = [event["stall_s"] for event in of(saving, "checkpoint")]
        begun = {event["step"] + 1 for event in of(saving, "checkpoint")}
        figures["without"] += without
        figures["with"] += with_
        figures["beside"] += [s["step_s"] for s in of(saving, "step") if s["step"] in begun]
        figures["stall"] += stalls
        figures["overhead"].append((sum(with_) + sum(stalls)) / sum(without) - 1)
    num_bytes = of(saving, "checkpoint")[-1]["bytes"]
    return num_bytes, {name: statistics.median(values) for name, values in figures.items()}


def report(kind, num_bytes, figures):
    step = figures["without"]
    print(f"{kind}: checkpoint {num_bytes / 1e6:.1f} MB")
    print(f"  step {step:.3f} s without, {figures['with']:.3f} s with "
          f"({figures['with'] / step:.3f}), {figures['beside']:.3f} s beside the writing "
          f"({figures['beside'] / step:.3f})")
    print(f"  stall {figures['stall'] * 1000:.1f} ms = {figures['stall'] / step:.4f} steps; "
          f"overhead {100 * figures['overhead']:.1f} %", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vaccine", default=ROOT / "build" / "release" / "vaccine")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--work", default="checkpoint-stall")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--interval", type=int, default=5)
    parser.add_argument("--steps", type=int, default=21)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    workspace = Workspace(options)
    for kind in KINDS:
        report(kind, *measure(workspace, kind))


if __name__ == "__main__":
    main()

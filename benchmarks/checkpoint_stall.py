#!/usr/bin/env python3
"""What checkpoints cost the training: `vaccine align` with and without them, in turns.

    checkpoint_stall.py --model DIR [--ranks 1] [--threads 1] [--steps 25] [--interval 5] [--rounds 3]

DIR is any Hugging Face Llama directory (`vaccine init` makes one). For LoRA and for full parameters:
median time of a step without checkpoints, median of all steps with one every INTERVAL steps (steps
beside which one is written included), `stall_s` of the checkpoints, and what a checkpoint costs in
all, in steps: the time that all steps and stalls took beyond the same number of median steps
without, divided by the number of checkpoints.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
WARM_UP = 3  # steps at the beginning that are left out


def align(options, work, kind, interval):
    output = work / f"{kind}-{interval}"
    shutil.rmtree(output, ignore_errors=True)
    arguments = {"model.path": options.model, "data.path": work / "data.json",
                 "data.template": "plain", "data.max_length": 100, "train.max_steps": options.steps,
                 "train.lr": 1e-5, "drift.samples": 5, "adapter.type": kind,
                 "checkpoint.interval": interval, "runtime.threads": options.threads,
                 "output.dir": output}
    command = [options.vaccine, "align"]
    command += [part for name, value in arguments.items() for part in (f"--{name}", value)]
    if options.ranks > 1:
        command = ["mpirun", "-n", options.ranks, "--oversubscribe", "--bind-to", "none"] + command
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    events = [json.loads(line) for line in (output / "run.jsonl").read_text().splitlines()]
    steps = [event["step_s"] for event in events if event["event"] == "step"][WARM_UP:]
    checkpoints = [event for event in events if event["event"] == "checkpoint"]
    shutil.rmtree(output)
    return steps, checkpoints


def measure(options, work, kind):
    without, with_them, checkpoints = [], [], []
    for _ in range(options.rounds):
        without += align(options, work, kind, 0)[0]
        steps, made = align(options, work, kind, options.interval)
        with_them += steps
        checkpoints += made
    step = statistics.median(without)
    stalls = [checkpoint["stall_s"] for checkpoint in checkpoints]
    extra = sum(with_them) + sum(stalls) - len(with_them) * statistics.fmean(without)
    print(f"{'LoRA' if kind == 'lora' else 'full':5} step without {step:.3f} s (mean "
          f"{statistics.fmean(without):.3f}), with {statistics.median(with_them):.3f} s "
          f"(mean {statistics.fmean(with_them):.3f}); checkpoint "
          f"{checkpoints[0]['bytes'] / 1e6:.1f} MB, stall median {statistics.median(stalls):.4f} s, "
          f"most {max(stalls):.4f} s; costs {extra / len(checkpoints) / step:.2f} steps")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vaccine", default=ROOT / "build/release/vaccine")
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--work", help="where runs are written (default: a temporary directory)")
    for name, default in (("ranks", 1), ("threads", 1), ("steps", 25), ("interval", 5),
                          ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as directory:
        work = pathlib.Path(directory)
        rows = [{"instruction": f"Say what {i} and {i * i} have in common. " * 3,
                 "output": f"Both are divided by {i}. " * 12} for i in range(1, 65)]
        (work / "data.json").write_text(json.dumps(rows))
        for kind in ("lora", "none"):
            measure(options, work, kind)


if __name__ == "__main__":
    main()

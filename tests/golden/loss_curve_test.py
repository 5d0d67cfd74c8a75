"""The losses and norms of short runs on two ranks, to the last bit as they were when loss_curves.json
was written. A change that means to keep the numbers keeps these; one that means to change them says
so and writes the file anew (--update).

The numbers are those of any x86 processor: what chooses its instructions by the processor (own
kernels, LibTorch, MKL, the mathematics library) is told to use what all have. Another compiler or
LibTorch may make others; the file names those that made it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RANKS = 2
STEPS = 8
EXPECTED = Path(__file__).with_name("loss_curves.json")
ANY_PROCESSOR = {"VAX_CPU_TARGET": "generic", "ATEN_CPU_CAPABILITY": "default",
                 "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41",
                 "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4"}
SHAPE = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
COMMON = {"data.template": "plain", "data.max_length": 64, "train.global_batch": 6,
          "train.max_steps": STEPS, "train.micro_batch": 2, "runtime.threads": 1,
          "runtime.device": "cpu", "model.dtype": "fp32", "drift.samples": 4, "drift.batch": 2}
RUNS = {
    "vaccine-lora": {"train.method": "vaccine", "train.lr": 1e-2, "vaccine.rho": 2},
    "vaccine-full": {"train.method": "vaccine", "train.lr": 1e-3, "adapter.type": "none",
                     "vaccine.direction": "shared", "shard.frozen": "node", "shard.trainable": "node",
                     "train.recompute": "all"},
    "sft-lora": {"train.method": "sft", "train.lr": 1e-2, "adapter.dropout": 0.1},
}
# Fields that are computed; the others are measured.
FIGURES = ("loss", "clean_loss", "grad_norm", "hidden_grad_norm", "layer_grad_norm", "l2sq", "cka")


def run(*command):
    done = subprocess.run([str(part) for part in command], env=os.environ | ANY_PROCESSOR,
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr}")


def flags(options):
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def curves(arguments, work):
    """Run -> events, each its figures as they stand in run.jsonl."""
    world, base = work / "world", work / "base"
    run(sys.executable, arguments.source / "tools" / "make_miniature.py", world, "--small")
    program = [*arguments.prefix, arguments.vaccine]
    run(*program, "init", *flags({f"init.{name}": value for name, value in SHAPE.items()}),
        "--init.tokenizer_path", world / "tokenizer.model", "--output.dir", base)
    found = {}
    for name, options in RUNS.items():
        output = work / name
        run(arguments.mpiexec, "--oversubscribe", arguments.numproc_flag, RANKS, *program, "align",
            *flags(COMMON | options), "--model.path", base, "--data.path", world / "align.jsonl",
            "--output.dir", output)
        events = [json.loads(line) for line in (output / "run.jsonl").read_text().splitlines()]
        found[name] = [{figure: event[figure] for figure in FIGURES if figure in event}
                       for event in events if event["event"] in ("step", "drift")]
    return found


def differences(expected, found):
    for name in RUNS:
        for number, (then, now) in enumerate(zip(expected[name], found[name], strict=True), 1):
            for figure in then.keys() | now.keys():
                if then.get(figure) != now.get(figure):
                    yield (f"{name}, record {number}: {figure} was {then.get(figure)}, "
                           f"is {now.get(figure)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vaccine", required=True, type=Path)
    parser.add_argument("--source", required=True, type=Path)
    parser.add_argument("--mpiexec", required=True)
    parser.add_argument("--numproc-flag", required=True)
    parser.add_argument("--made-by", required=True, help="compiler and LibTorch")
    parser.add_argument("--prefix", nargs="*", default=[], help="runs the program, such as qemu")
    parser.add_argument("--update", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = curves(arguments, Path(work))
    assert all(len(records) > STEPS and "loss" in records[0] for records in found.values()), found
    if arguments.update:
        EXPECTED.write_text(json.dumps({"made_by": arguments.made_by} | found, indent=1) + "\n")
        return
    expected = json.loads(EXPECTED.read_text())
    problems = list(differences(expected, found))
    if problems:
        sys.exit("\n".join([*problems[:20], f"{len(problems)} differences; the file was made by "
                            f"{expected['made_by']}, this is {arguments.made_by}"]))
    print(f"{sum(map(len, found.values()))} records equal")


if __name__ == "__main__":
    main()

"""The program on a device against itself on the host, run by run: a GPU, or the stand-in that runs
the same kernels without one (--vaccine names the program, which must have a device).

  graphs    passes that are captured and replayed give the bits of passes that are launched, over
            batches of many sizes, so that some are captured, some replayed, some run once
  ranks     two and three ranks, which gather device memory, against one, and that against the host;
            two ranks on one device
  bf16      bf16 on the device against bf16 on the host
  fp8       pass 1 in 8-bit floats: its cosine is measured, and measuring changes nothing
  eval      answers and alignment loss of an evaluation
  resume    a run that goes on where another device has stopped
  refusals  what a device cannot do, and what needs one
"""

import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path

from common import Checks, ProgramRuns, defaults_of, launcher_of, program_arguments
from probe_parity import same_bits
from safetensors.torch import load_file
from vaccine_parity import (TRAINING, compare_figures, compare_weights, read_steps, read_weights)

DEVICE = {"runtime.device": "cuda"}
HOST = {"runtime.device": "cpu"}
FP32 = {"model.dtype": "fp32"}

# e4m3 keeps 4 significant bits: an element is off by 2.6e-2 (root mean square), a product of two by
# 3.7e-2, and so is a sum of products whose errors are independent. About 16 such sums follow each
# other on the way through two layers and back, 0.15 of the gradient, half as much again with the
# largest weight of a row setting the scale: a cosine of 1 - 0.22^2 / 2. Found: 0.963 to 0.984.
FP8_COSINE_BOUND = 0.93
# bf16 rounds to 8 bits, and both sides round the same numbers but where sums of other orders fall
# on two sides of a middle. Found: 5e-4.
BF16_LOSS_BOUND = 5e-3
# Norms of gradients, which have come through twice as many products. Found: 4e-3.
BF16_NORM_BOUND = 2e-2


def adapter_start(runs):
    return TRAINING | {"adapter.init": runs.adapter, "adapter.dropout": 0.1}


def graphs(checks, runs):
    for name, options in [("fp32", FP32), ("bf16", {"model.dtype": "bf16"}),
                          ("micro-batches of two", FP32 | {"train.micro_batch": 2}),
                          ("SFT", FP32 | {"train.method": "sft"}),
                          ("recomputed", FP32 | {"train.recompute": "all"}),
                          ("fresh masks", FP32 | {"vaccine.dropout_mask": "fresh"})]:
        # Three epochs: the second meets the extents of the first again, the third replays.
        start = adapter_start(runs) | DEVICE | options | {"train.epochs": 3}
        captured = runs.align(start | {"runtime.graphs": "on"})
        launched = runs.align(start | {"runtime.graphs": "off"})
        if name != "bf16":
            for got, expected in zip(read_steps(captured), read_steps(launched), strict=True):
                compare_figures(checks, f"{name}, step {got['step']}", got, expected)
        again = runs.align(start | {"runtime.graphs": "on"})
        same_bits(checks, f"{name}, captured twice", again, captured)
        losses = [[s["loss"] for s in read_steps(output)] for output in (captured, launched)]
        checks.close("loss with graphs", name, *losses, BF16_LOSS_BOUND)


@contextlib.contextmanager
def stand_in(**settings):
    """What the stand-in's device does differently; nothing to a GPU."""
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            del os.environ[name]


# Messages are late: what does not wait for them computes with something else.
@stand_in(STANDIN_DELAY_US="1000")
def ranks(checks, runs):
    adapter_weights = load_file(runs.adapter / "adapter_model.safetensors")
    base_weights = load_file(runs.base / "model.safetensors")
    for kind, start, initial in [
            ("LoRA", adapter_start(runs), adapter_weights),
            ("full parameters", TRAINING | {"adapter.type": "none"}, base_weights)]:
        start = start | DEVICE | FP32 | {"drift.interval": 3, "drift.samples": 5}
        whole = runs.align(start)
        host = runs.align(start | HOST)
        with stand_in(STANDIN_BUS_ID="0000:01:00.0"):
            staged = runs.align(start | {"shard.group_size": 1}, 2)
        layouts = [("host", host), ("2 ranks", runs.align(start | {"train.micro_batch": 2}, 2)),
                   ("2 ranks, one device", staged),
                   ("3 ranks", runs.align(start | {"shard.frozen": "replicate",
                                                   "shard.trainable": "replicate"}, 3))]
        for layout, output in layouts:
            where = f"{kind}, {layout}"
            for got, expected in zip(read_steps(output), read_steps(whole), strict=True):
                compare_figures(checks, f"{where}, step {got['step']}", got, expected)
            compare_weights(checks, where, read_weights(output), read_weights(whole), initial)


def bf16(checks, runs):
    for kind, start in [("LoRA", adapter_start(runs)),
                        ("full parameters", TRAINING | {"adapter.type": "none"}),
                        ("shared", adapter_start(runs) | {"vaccine.direction": "shared"})]:
        start = start | {"model.dtype": "bf16"}
        device, host = (read_steps(runs.align(start | where)) for where in (DEVICE, HOST))
        for key, bound in [("loss", BF16_LOSS_BOUND), ("clean_loss", BF16_LOSS_BOUND),
                           ("hidden_grad_norm", BF16_NORM_BOUND), ("grad_norm", BF16_NORM_BOUND)]:
            checks.close(f"{key} in bf16", kind, [s[key] for s in device], [s[key] for s in host],
                         bound)
        checks.true([s["loss"] for s in device] != [s["loss"] for s in host],
                    f"control: {kind}: the device computes what the host does, to the bit")


def fp8(checks, runs):
    start = TRAINING | {"adapter.dropout": 0.1, "model.dtype": "bf16"} | DEVICE
    exact = runs.align(start)
    every = runs.align(start | {"vaccine.probe_dtype": "fp8", "vaccine.probe_check_interval": 1})
    never = runs.align(start | {"vaccine.probe_dtype": "fp8", "vaccine.probe_check_interval": 0})
    same_bits(checks, "fp8, checks", every, never)
    cosines = [step["probe_cosine"] for step in read_steps(every)]
    print("cosines of fp8:", " ".join(f"{c:.5f}" for c in cosines))
    checks.true(all(FP8_COSINE_BOUND < c < 1 for c in cosines), f"cosines {cosines}")
    clean = [[read_steps(output)[0]["clean_loss"]] for output in (every, exact)]
    checks.true(clean[0] != clean[1], "control: pass 1 in fp8 computes as the update does")
    checks.close("clean loss of step 1", "fp8", *clean, 5e-2)
    for name, options in [("full", {"adapter.type": "none"}), ("under fp32", FP32)]:
        output = runs.align(start | options | {"vaccine.probe_dtype": "fp8",
                                               "vaccine.probe_check_interval": 1})
        cosines = [step["probe_cosine"] for step in read_steps(output)]
        checks.true(all(FP8_COSINE_BOUND < c < 1 for c in cosines), f"{name}: cosines {cosines}")


def evaluate(runs, options, num_ranks):
    output = runs.work / f"{options['runtime.device']}-{num_ranks}"
    runs.start("eval", {"model.path": runs.base, "data.template": "plain",
                        "eval.task_path": runs.data, "eval.task": "label",
                        "eval.alignment_path": runs.data, "eval.max_new_tokens": 12,
                        "eval.samples": 10, "runtime.threads": 1, "output.dir": output} | FP32
               | options, num_ranks)
    return (json.loads((output / "eval.json").read_text()),
            json.loads((output / "answers.json").read_text()))


def evaluation(checks, runs):
    host, host_answers = evaluate(runs, HOST, 1)
    for num_ranks in (1, 2):
        device, answers = evaluate(runs, DEVICE, num_ranks)
        checks.close("alignment loss", f"{num_ranks} ranks", [device["alignment_loss"]],
                     [host["alignment_loss"]], 2e-6)
        same = [a["output"] == b["output"] for a, b in zip(answers, host_answers, strict=True)]
        # Greedy answers part where two logits are closer than the rounding of fp32.
        checks.true(sum(same) >= len(same) - 1,
                    f"{same.count(False)} of {len(same)} answers differ")
    checks.true(any(a["output"] for a in host_answers), "control: answers are empty")


def resume(checks, runs):
    """Three runs of ten steps: all on one side, or half on each."""
    start = adapter_start(runs) | FP32 | {"checkpoint.interval": 5}
    initial = load_file(runs.adapter / "adapter_model.safetensors")
    for first, second, num_ranks in ((HOST, DEVICE, 1), (DEVICE, HOST, 1), (DEVICE, DEVICE, 2)):
        where = f"{first['runtime.device']} then {second['runtime.device']}, {num_ranks} ranks"
        # Frozen weights too, which one of two shard groups writes.
        first = first | {"checkpoint.adapter_only": "false", "shard.group_size": 1}
        whole = runs.align(start | first, num_ranks)
        output = runs.align(start | first, num_ranks)
        # The checkpoint of step 10 would leave nothing to do.
        newest = output / "checkpoints" / "step-000010"
        subprocess.run(["rm", "-r", newest], check=True)
        point = output / "checkpoints" / "step-000005"
        rest = runs.align(start | second | {"checkpoint.resume": point})
        compare_weights(checks, where, read_weights(rest), read_weights(whole), initial)


def refusal(runs, options):
    """What the program says."""
    options = {"model.path": runs.base, "data.path": runs.data, "data.template": "plain",
               "output.dir": runs.work / "refused"} | options
    flags = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    done = subprocess.run([runs.program, "align", *flags], capture_output=True, text=True,
                          check=False)
    return done.returncode, done.stderr


def refusals(checks, runs):
    for options, expected in [
            (DEVICE | {"shard.frozen": "node"}, "expected full or replicate on a GPU"),
            (DEVICE | {"adapter.type": "none", "model.dtype": "bf16", "runtime.graphs": "on"},
             "runtime.graphs: expected auto or off"),
            (DEVICE | {"vaccine.probe_dtype": "fp8"}, "multiples of 16, found"),
            (HOST | {"vaccine.probe_dtype": "fp8"}, "on a CPU, found fp8"),
            (HOST | {"runtime.graphs": "on"}, "on a CPU, found on")]:
        code, text = refusal(runs, options)
        checks.true(code == 2 and expected in text, f"{options}: exit {code}: {text}")


# Name -> test, rows of data, shape of the model.
PARTS = {"graphs": (graphs, 13, {}), "ranks": (ranks, 13, {}), "bf16": (bf16, 13, {}),
         "fp8": (fp8, 13, {"intermediate_size": 64}), "eval": (evaluation, 13, {}),
         "resume": (resume, 23, {}), "refusals": (refusals, 5, {})}


def main():
    arguments = program_arguments(__doc__, part=PARTS)
    part, num_rows, shape = PARTS[arguments.part]
    checks = Checks()
    with tempfile.TemporaryDirectory() as directory:
        part(checks, ProgramRuns(Path(directory), arguments.vaccine, num_rows,
                                 launcher_of(arguments), defaults_of(arguments), shape))
    checks.finish()


if __name__ == "__main__":
    main()

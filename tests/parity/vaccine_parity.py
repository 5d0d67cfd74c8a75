"""Training runs of the program `vaccine` against a plain PyTorch transcription of the method, and
against each other.

  transcription  `vaccine align` on one rank (norm_scope rank: two) against transformers + peft +
                 hooks + torch.optim: every figure of every step, final weights
  rho_zero       a perturbation of length 0 leaves plain fine-tuning: bit for bit
  ranks          neither ranks, micro-batches nor the placement of the shards change a run
"""

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from common import (GLOBAL_BATCH, MAX_LENGTH, AttentionBoundary, Checks, ProgramRuns, adapter_name,
                    cross_entropy_sum, defaults_of, launcher_of, load_model, pad, program_arguments)
import h5py
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import get_cosine_schedule_with_warmup

LR, WEIGHT_DECAY, RHO = 1e-3, 0.1, 2.0
TRAINING = {"train.lr": LR, "train.weight_decay": WEIGHT_DECAY, "vaccine.rho": RHO}

# Of one step: the rounding of two forwards and backwards in fp32 (6e-8 per operation, sums of up to
# 100 terms, two layers) plus that of the fp32 loss and norms of the transcription. Over the steps
# AdamW feeds differences back through the weights, enlarged where a gradient element is near its
# own rounding error (m / sqrt(v) is of order 1 whatever its size). Found: 2e-7, 7e-7, 1e-5; the
# bounds leave room for other vector widths and GEMM libraries. A row counted in another S shows as
# 3e-2 in the loss.
LOSS_BOUND = 2e-6
NORM_BOUND = 1e-5
WEIGHT_BOUND = 2e-4  # of the norm of the tensor's update over the run
LR_BOUND = 1e-12     # formulas in fp64


def whole_batch(num_rows):
    return [(0, num_rows)]


def micro_batches_of_two(num_rows):
    return [(first, min(first + 2, num_rows)) for first in range(0, num_rows, 2)]


def shares_of_two_ranks(num_rows):
    """Contiguous blocks, the first rank one row more when it does not divide."""
    middle = (num_rows + 1) // 2
    return [(0, middle), (middle, num_rows)]


@dataclass
class Variant:
    """One way to run, and how the transcription does it."""
    name: str
    options: dict = field(default_factory=dict)  # of the program, besides the common ones
    ranks: int = 1
    groups: Callable = whole_batch  # rows [first, last) of a global batch that share one S
    shared: bool = False
    interval: int = 1
    layers: tuple = (0, 1)
    full: bool = False  # all parameters instead of an adapter


VARIANTS = [
    Variant("default"),
    Variant("direction shared", {"vaccine.direction": "shared"}, shared=True),
    Variant("norm_scope micro", {"vaccine.norm_scope": "micro", "train.micro_batch": 2},
            groups=micro_batches_of_two),
    Variant("norm_scope rank", {"vaccine.norm_scope": "rank"}, ranks=2,
            groups=shares_of_two_ranks),
    Variant("interval 2", {"vaccine.interval": 2}, interval=2),
    Variant("layers", {"vaccine.layers": 1}, layers=(1,)),
    Variant("full parameters", {"adapter.type": "none"}, full=True),
]


class Transcription:
    """The paper's method with autograd: pass 1 for G_l, pass 2 under eps_l, then AdamW as in the
    Hugging Face Trainer (no decay of norms and biases, clipping at 1, cosine schedule)."""

    def __init__(self, model, variant, num_steps):
        self.model, self.variant = model, variant
        self.boundary = AttentionBoundary(model)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [{"params": [p for p in self.parameters if p.dim() > 1],
              "weight_decay": WEIGHT_DECAY},
             {"params": [p for p in self.parameters if p.dim() == 1], "weight_decay": 0.0}],
            lr=LR, betas=(0.9, 0.999), eps=1e-8)
        self.scheduler = get_cosine_schedule_with_warmup(
            self.optimizer, math.ceil(0.1 * num_steps), num_steps)

    def loss(self, batch, num_labels):
        ids, mask, labels = batch
        logits = self.model(input_ids=ids, attention_mask=mask).logits
        return cross_entropy_sum(logits, labels)[0] / num_labels

    def perturbation(self, batch, num_labels):
        """Clean loss, squared norms per layer, eps per layer."""
        self.boundary.measure()
        loss = self.loss(batch, num_labels)
        gradients = torch.autograd.grad(loss, self.boundary.deltas)
        if self.variant.shared:
            gradients = [g.sum(dim=(0, 1)) for g in gradients]
        gradients = [g if layer in self.variant.layers else torch.zeros_like(g)
                     for layer, g in enumerate(gradients)]
        squares = torch.stack([g.double().square().sum() for g in gradients])
        scale = RHO / (squares.sum().sqrt().item() + 1e-7)
        return loss.item(), squares, [scale * g for g in gradients]

    def step(self, number, rows):
        """`rows`: (ids, label_begin) of the global batch. Returns what run.jsonl and run.h5 say."""
        num_labels = sum(len(ids) - begin for ids, begin in rows if begin < len(ids))
        two_pass = (number - 1) % self.variant.interval == 0
        loss = clean_loss = 0.0
        squares = torch.zeros(len(self.boundary.outputs), dtype=torch.float64)
        gradients = [torch.zeros_like(p) for p in self.parameters]
        for first, last in self.variant.groups(len(rows)):
            batch = pad(*zip(*rows[first:last], strict=True))
            self.boundary.measure()
            if two_pass:
                clean, group_squares, epsilon = self.perturbation(batch, num_labels)
                clean_loss, squares = clean_loss + clean, squares + group_squares
                self.boundary.perturb(epsilon)
            group_loss = self.loss(batch, num_labels)
            loss += group_loss.item()
            for total, part in zip(gradients, torch.autograd.grad(group_loss, self.parameters),
                                   strict=True):
                total += part
        return self.update(gradients) | {
            "loss": loss, "clean_loss": clean_loss if two_pass else loss,
            "hidden_grad_norm": squares.sum().sqrt().item() if two_pass else None,
            "layer_norms": squares.sqrt() if two_pass else None, "label_tokens": num_labels}

    def update(self, gradients):
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0).item()
        lr = self.scheduler.get_last_lr()[0]
        self.optimizer.step()
        self.scheduler.step()
        return {"grad_norm": grad_norm, "lr": lr}


def read_steps(output):
    lines = (output / "run.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == "step"]


def read_layer_norms(output):
    """||G_l|| of every layer by step, for the steps with two passes."""
    with h5py.File(output / "run.h5") as file:
        group = file["perturbation"]
        return dict(zip(group["step"][:].tolist(), group["grad_norm"][:], strict=True))


def read_weights(output):
    """Trained tensors by name: of the adapter, or of the whole model."""
    adapter = output / "adapter" / "adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else output / "model" / "model.safetensors")


def compare_weights(checks, where, got, expected, initial):
    """Per tensor, relative to the norm of its update in the run."""
    checks.true(set(got) == set(expected),
                f"{where}: tensors differ: {sorted(set(got) ^ set(expected))}")
    for name in got.keys() & expected.keys():
        checks.close("update of weights", f"{where}: {name}", got[name] - initial[name],
                     expected[name] - initial[name], WEIGHT_BOUND)


def compare_figures(checks, where, got, expected):
    """Two steps as run.jsonl has them."""
    for key, bound in [("loss", LOSS_BOUND), ("clean_loss", LOSS_BOUND),
                       ("hidden_grad_norm", NORM_BOUND), ("grad_norm", NORM_BOUND),
                       ("lr", LR_BOUND)]:
        if expected[key] is None:
            checks.true(got[key] is None, f"{where}: {key}: expected null, found {got[key]}")
        else:
            checks.close(key, where, [got[key]], [expected[key]], bound)
    checks.true(got["label_tokens"] == expected["label_tokens"],
                f"{where}: label_tokens {got['label_tokens']}, expected {expected['label_tokens']}")


def compare_layer_norms(checks, where, got, expected):
    checks.true((got is None) == (expected is None),
                f"{where}: run.h5 must have norms per layer of two-pass steps and no others")
    if got is not None and expected is not None:
        checks.close("norm per layer", where, got, expected, NORM_BOUND)


def transcription(checks, runs):
    """run.jsonl, run.h5 and the final weights of ten steps, for every variant."""
    batches = runs.global_batches(epochs=2)
    checks.true(any(len(ids) == MAX_LENGTH for batch in batches for ids, _ in batch)
                and len(batches[-1]) < GLOBAL_BATCH, "the data has no cut row or no uneven batch")
    losses = {}
    for variant in VARIANTS:
        start = {} if variant.full else {"adapter.init": runs.adapter, "adapter.dropout": 0}
        output = runs.align(TRAINING | start | variant.options, variant.ranks)
        steps = read_steps(output)
        losses[variant.name] = [step["loss"] for step in steps]
        layer_norms = read_layer_norms(output)

        model = load_model(runs.base)
        if not variant.full:
            model = PeftModel.from_pretrained(model, runs.adapter, is_trainable=True)
        reference = Transcription(model, variant, len(batches))
        initial = trained_weights(model)
        checks.true(len(steps) == len(batches),
                    f"{variant.name}: {len(steps)} steps, expected {len(batches)}")
        for number, (batch, step) in enumerate(zip(batches, steps, strict=False), start=1):
            where, expected = f"{variant.name}, step {number}", reference.step(number, batch)
            compare_figures(checks, where, step, expected)
            compare_layer_norms(checks, where, layer_norms.get(number), expected["layer_norms"])
        compare_weights(checks, variant.name, read_weights(output), trained_weights(model),
                        initial)
    for name in losses.keys() - {"default"}:
        checks.true(checks.relative_error(losses[name], losses["default"]) > 10 * LOSS_BOUND,
                    f"control: {name} has the losses of the default")


def trained_weights(model):
    return {adapter_name(name): p.detach().clone() for name, p in model.named_parameters()
            if p.requires_grad}


def rho_zero(checks, runs):
    """eps = 0 * G adds zeros: every bit of pass 2 is that of plain fine-tuning, dropout included."""
    common = TRAINING | {"adapter.init": runs.adapter, "adapter.dropout": 0.1}
    sft = runs.align(common | {"train.method": "sft"})
    expected = read_weights(sft)
    losses = [step["loss"] for step in read_steps(sft)]
    for name, options in [("rho 0", {}), ("rho 0, fresh", {"vaccine.dropout_mask": "fresh"}),
                          ("rho 0, shared", {"vaccine.direction": "shared"})]:
        output = runs.align(common | options | {"train.method": "vaccine", "vaccine.rho": 0})
        got = read_weights(output)
        checks.true(got.keys() == expected.keys(), f"{name}: tensors differ")
        for tensor in got.keys() & expected.keys():
            checks.true(got[tensor].numpy().tobytes() == expected[tensor].numpy().tobytes(),
                        f"{name}: {tensor} differs from SFT")
        steps = read_steps(output)
        checks.true([step["loss"] for step in steps] == losses, f"{name}: losses differ from SFT")
        same_mask = "vaccine.dropout_mask" not in options
        checks.true(all((s["clean_loss"] == s["loss"]) == same_mask for s in steps),
                    f"{name}: pass 1 does not have the dropout masks it should have")
    perturbed = read_weights(runs.align(common | {"train.method": "vaccine"}))
    checks.true(any(not torch.equal(perturbed[t], expected[t]) for t in expected),
                "control: rho 2 gives the weights of SFT")


# Ranks and options: every number of ranks with every micro-batch, every placement with several
# ranks. The last global batch has 3 rows: with 4 ranks one has none.
LAYOUTS = [(num_ranks, {"train.micro_batch": micro_batch})
           for num_ranks in (1, 2, 3, 4) for micro_batch in (GLOBAL_BATCH, 2, 1)]
LAYOUTS += [
    (2, {"train.micro_batch": 2, "shard.frozen": "replicate"}),
    (3, {"train.micro_batch": 1, "shard.trainable": "replicate"}),
    (4, {"shard.frozen": "replicate", "shard.trainable": "replicate"}),
    (4, {"train.micro_batch": 1, "shard.group_size": 2}),
    (2, {"shard.residency_gib": 1, "shard.prefetch": 0}),
    (2, {"train.micro_batch": 2, "train.recompute": "pass2"}),
    (1, {"train.recompute": "all"}),
]
SHARED_LAYOUTS = [(1, {"train.micro_batch": 2}), (3, {}),
                  (4, {"train.micro_batch": 1, "shard.frozen": "replicate"})]
FULL_LAYOUTS = [(1, {"train.micro_batch": 2}), (3, {}), (2, {"shard.trainable": "replicate"}),
                (4, {"train.micro_batch": 1, "shard.group_size": 2, "train.recompute": "pass2"})]


def ranks(checks, runs):
    """One rank with the whole batch against every layout; dropout on, so masks are covered too."""
    adapter = {"adapter.init": runs.adapter, "adapter.dropout": 0.1}
    adapter_weights = load_file(runs.adapter / "adapter_model.safetensors")
    kinds = [("token", adapter, adapter_weights, LAYOUTS),
             ("shared", adapter | {"vaccine.direction": "shared"}, adapter_weights,
              SHARED_LAYOUTS),
             ("full parameters", {"adapter.type": "none"},
              load_file(runs.base / "model.safetensors"), FULL_LAYOUTS)]
    for kind, start, initial, layouts in kinds:
        whole = runs.align(TRAINING | start)
        for num_ranks, options in layouts:
            where = f"{kind}, ranks {num_ranks}, {options}"
            output = runs.align(TRAINING | start | options, num_ranks)
            for got, expected in zip(read_steps(output), read_steps(whole), strict=True):
                compare_figures(checks, f"{where}, step {got['step']}", got, expected)
            compare_weights(checks, where, read_weights(output), read_weights(whole), initial)


PARTS = {"transcription": (transcription, 23), "rho_zero": (rho_zero, 8), "ranks": (ranks, 13)}


def main():
    arguments = program_arguments(__doc__, part=PARTS)
    part, num_rows = PARTS[arguments.part]
    checks = Checks()
    with tempfile.TemporaryDirectory() as directory:
        part(checks, ProgramRuns(Path(directory), arguments.vaccine, num_rows,
                                 launcher_of(arguments), defaults_of(arguments)))
    checks.finish()


if __name__ == "__main__":
    main()

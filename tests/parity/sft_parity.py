"""Plain fine-tuning of every parameter by the program `vaccine` against transformers and
torch.optim: twenty steps of AdamW in fp32 with the Hugging Face Trainer's two groups of parameters
(no decay of norms and biases), cosine schedule with warm-up, clipping. Losses, rates and
gradient norms of every step and the final weights, on one and two ranks, for the placements of the
weights, whole batches and micro-batches.
"""

import math
import tempfile
from pathlib import Path

from common import (GLOBAL_BATCH, VOCAB_SIZE, Checks, ProgramRuns, cross_entropy_sum, defaults_of,
                    launcher_of, load_model, make_model, pad, program_arguments)
import torch
from safetensors.torch import load_file
from transformers import Trainer, get_cosine_schedule_with_warmup
from vaccine_parity import read_steps

LR, WEIGHT_DECAY, WARMUP_RATIO = 2e-3, 0.1, 0.15
NUM_ROWS, EPOCHS, NUM_STEPS = 23, 4, 20  # five steps an epoch, the last with three rows

# Rounding of a forward and backward in fp32 in the first step. AdamW divides by the root of the
# mean square, so an element whose gradient is near its own rounding error moves by a full step
# either way: over twenty steps such elements set the difference. Found: 2e-7 in losses, 5e-7 in
# norms, 6e-5 of a tensor's update (k's bias, whose gradients cancel nearly); the bounds leave room
# for other vector widths and GEMM libraries.
LOSS_BOUND = 2e-6
NORM_BOUND = 1e-5
LR_BOUND = 1e-12      # formulas in fp64
WEIGHT_BOUND = 5e-4   # of the norm of the tensor's update over the run

TRAINING = {"train.method": "sft", "adapter.type": "none", "train.lr": LR,
            "train.weight_decay": WEIGHT_DECAY, "train.schedule": "cosine",
            "train.warmup_ratio": WARMUP_RATIO, "train.epochs": EPOCHS,
            "model.dtype": "fp32"}
# name, shape, clip: below the norm of every step, and between those of some and of others.
MODELS = [("biases", {"attention_bias": True, "mlp_bias": True}, 1.0),
          ("tied head", {"tie_word_embeddings": True, "intermediate_size": 44}, 2.6)]


def layouts(defaults):
    """Ranks and options; devices share no memory."""
    placement = "replicate" if defaults.get("runtime.device") == "cuda" else "node"
    shared = {"shard.frozen": placement, "shard.trainable": placement, "train.micro_batch": 1}
    return [(1, {}), (1, {"train.micro_batch": 2}), (2, {}), (2, shared)]


class Reference:
    """The loop of the Hugging Face Trainer, written out."""

    def __init__(self, model, clip, decay_everything=False):
        self.model, self.clip = model, clip
        decayed = set(Trainer.get_decay_parameter_names(None, model))
        named = list(model.named_parameters())
        if decay_everything:
            decayed = {name for name, _ in named}
        self.optimizer = torch.optim.AdamW(
            [{"params": [p for name, p in named if name in decayed],
              "weight_decay": WEIGHT_DECAY},
             {"params": [p for name, p in named if name not in decayed], "weight_decay": 0.0}],
            lr=LR, betas=(0.9, 0.999), eps=1e-8)
        self.scheduler = get_cosine_schedule_with_warmup(
            self.optimizer, math.ceil(WARMUP_RATIO * NUM_STEPS), NUM_STEPS)

    def step(self, rows):
        ids, mask, labels = pad(*zip(*rows, strict=True))
        total, num_labels = cross_entropy_sum(
            self.model(input_ids=ids, attention_mask=mask).logits, labels)
        loss = total / num_labels
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip).item()
        lr = self.scheduler.get_last_lr()[0]
        self.optimizer.step()
        self.scheduler.step()
        return {"loss": loss.item(), "grad_norm": norm, "lr": lr}


def train_reference(base, batches, clip, **options):
    """Figures of every step; the trained weights."""
    model = load_model(base)
    reference = Reference(model, clip, **options)
    return [reference.step(batch) for batch in batches], weights_of(model)


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def compare(checks, where, output, figures, trained, initial):
    steps = read_steps(output)
    checks.true(len(steps) == len(figures), f"{where}: {len(steps)} steps")
    for number, (got, expected) in enumerate(zip(steps, figures, strict=False), start=1):
        for key, bound in (("loss", LOSS_BOUND), ("grad_norm", NORM_BOUND), ("lr", LR_BOUND)):
            checks.close(key, f"{where}, step {number}", [got[key]], [expected[key]], bound)
    weights = load_file(output / "model" / "model.safetensors")
    checks.true(set(weights) == set(trained),
                f"{where}: tensors differ: {sorted(set(weights) ^ set(trained))}")
    for name in weights.keys() & trained.keys():
        checks.close("update of weights", f"{where}: {name}", weights[name] - initial[name],
                     trained[name] - initial[name], WEIGHT_BOUND)


def check_that_differences_show(checks, base, batches, clip, trained, initial):
    _, other = train_reference(base, batches, clip, decay_everything=True)
    undecayed = [name for name in trained if trained[name].dim() == 1]
    checks.true(len(undecayed) > 0, "control: the model has nothing that is not decayed")
    for name in undecayed:
        error = checks.relative_error(other[name] - initial[name], trained[name] - initial[name])
        checks.true(error > 3 * WEIGHT_BOUND,
                    f"control: decay of {name} shows as {error:.3g} only")


def main():
    arguments = program_arguments(__doc__)
    checks = Checks()
    with tempfile.TemporaryDirectory() as directory:
        runs = ProgramRuns(Path(directory), arguments.vaccine, NUM_ROWS, launcher_of(arguments),
                           defaults_of(arguments))
        batches = runs.global_batches(EPOCHS)
        checks.true(len(batches) == NUM_STEPS and len(batches[-1]) < GLOBAL_BATCH,
                    "the data does not make the steps it should")
        for model, shape, clip in MODELS:
            make_model(runs.base, 11, vocab_size=VOCAB_SIZE, num_key_value_heads=2, **shape)
            initial = weights_of(load_model(runs.base))
            figures, trained = train_reference(runs.base, batches, clip)
            clipped = [figure["grad_norm"] > clip for figure in figures]
            checks.true(any(clipped) and (clip == 1.0 or not all(clipped)),
                        f"control: {model}: clipping does not show")
            check_that_differences_show(checks, runs.base, batches, clip, trained, initial)
            for num_ranks, options in layouts(runs.defaults):
                output = runs.align(TRAINING | {"train.clip": clip} | options, num_ranks)
                compare(checks, f"{model}, ranks {num_ranks}, {options}", output, figures, trained,
                        initial)
    checks.finish()


if __name__ == "__main__":
    main()

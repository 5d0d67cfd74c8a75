"""A run that goes on with another number of ranks every time: 1 -> 2 -> 4 -> 3 -> 1.

  chain   losses stay those of a run that one rank makes without a break, within a bound
  load    what 2, 3 and 4 ranks load from one checkpoint is the same, byte for byte: weights as they
          are saved without a step in between, and weights and moments after a step that only decays
          the moments (lr 0, gradients clipped to nothing), each element by itself
"""

import shutil

import numpy as np
from checkpoint_runs import KINDS, Run, arguments_of, checkpoint_runs, read_index, same_bytes

CHAIN = [1, 2, 4, 3, 1]
STEPS_EACH = 20
# Steps do not depend on how many there will be: a run of more steps goes on from one of fewer.
CONSTANT = {"train__schedule": "constant", "train__warmup_ratio": 0, "train__lr": 1e-4,
            "checkpoint__interval": STEPS_EACH}
# Sums over ranks are made in another order, which changes gradients by some 1e-7 of their size.
# Runs without a break on 1 and on 2 ranks differ by 5e-8 after these few steps. Moments that are
# lost change losses by 9e-4 (first moment, LoRA) to 8e-2 (second moment, all parameters).
LOSS_BOUND = 1e-6
CLIP_TO_NOTHING = 1e-30


def chain(runs, kind):
    chained = Run(runs, "chained", kind, **CONSTANT)
    for number, ranks in enumerate(CHAIN, 1):
        chained.finish(ranks, train__max_steps=number * STEPS_EACH)
    num_steps = len(CHAIN) * STEPS_EACH
    resumes = chained.events("resume")
    assert [event["step"] for event in resumes] == list(range(STEPS_EACH, num_steps, STEPS_EACH))
    losses = {}
    for ranks in (1, 2):
        plain = Run(runs, f"plain{ranks}", kind, train__max_steps=num_steps, **CONSTANT)
        plain.finish(ranks)
        losses[ranks] = np.array([step["loss"] for step in plain.events("step")])
    steps = chained.events("step")
    assert [step["step"] for step in steps] == list(range(1, num_steps + 1))
    found = np.array([step["loss"] for step in steps])
    worst, unbroken = (np.max(np.abs(other / losses[1] - 1)) for other in (found, losses[2]))
    print(f"{kind}: ranks {CHAIN}, {STEPS_EACH} steps each: losses within {worst:.2g} of one "
          f"rank's (2 ranks without a break: {unbroken:.2g}), bound {LOSS_BOUND:g}")
    assert worst < LOSS_BOUND, worst


def load(runs, kind):
    step = STEPS_EACH
    source = Run(runs, "source", kind, train__max_steps=step, **CONSTANT)
    source.finish(2)
    checkpoint = source.checkpoint(step)
    before = read_index(checkpoint)
    decayed, weights = {}, {}
    for ranks in (1, 2, 3, 4):
        # All steps are done: what is loaded is saved.
        saved = Run(runs, f"saved{ranks}", kind, **CONSTANT | {"train__max_steps": step},
                    checkpoint__resume=checkpoint)
        saved.finish(ranks)
        weights[ranks] = saved.weights()
        assert saved.computed_steps() == [], "a step was made"
        # One step and a checkpoint of it.
        one = Run(runs, f"one{ranks}", kind, **CONSTANT | {
            "train__max_steps": step + 1, "train__lr": 0, "train__clip": CLIP_TO_NOTHING,
            "checkpoint__interval": 1, "checkpoint__resume": checkpoint})
        one.finish(ranks)
        assert one.steps_saved() == [step + 1], one.steps_saved()
        decayed[ranks] = read_index(one.checkpoint(step + 1))
        shutil.rmtree(saved.output)
        shutil.rmtree(one.output)
    for ranks in (2, 3, 4):
        assert weights[ranks] == weights[1], f"weights loaded by {ranks} ranks differ"
        assert same_bytes(decayed[ranks], decayed[1]), f"state loaded by {ranks} ranks differs"
    for name, array in before.items():
        factor = 0.9 if "exp_avg/" in name else 0.999 if "exp_avg_sq/" in name else 1
        assert factor == 1 or np.any(array != 0), f"{name} is zero: nothing was compared"
        # One rounding to fp32 of the product, one of the factor.
        np.testing.assert_allclose(decayed[1][name], factor * array.astype(np.float64), rtol=3e-7,
                                   atol=1e-38, err_msg=name)
    print(f"{kind}: {len(before)} arrays of step {step}, written by 2 ranks, are the same bytes "
          "after loading by 1, 2, 3 and 4")


CASES = {"chain": chain, "load": load}


def main():
    arguments = arguments_of(__doc__, case=CASES, kind=KINDS).parse_args()
    with checkpoint_runs(arguments) as runs:
        CASES[arguments.case](runs, arguments.kind)


if __name__ == "__main__":
    main()

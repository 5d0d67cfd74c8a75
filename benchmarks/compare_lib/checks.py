"""Whether both sides did the same work: equal numbers of tokens in every step, and equal losses: of
every step with full parameters, so that gradients, clipping and optimizer are covered too; with
LoRA of the first step, since afterwards each side has factors and dropout masks of its own.

The loss of the first step knows nothing of them, not even Vaccine's second pass: lora_B is zero
before the first update, so the LoRA branch adds zero whatever its mask. Relative errors seen on the
134 M model: fp32 2e-7; bf16 3e-3, because Python rounds e_l + eps_l to 8 bits of mantissa and the
program does not. Two batches differ by 1e-4 or more.
"""

import math

FP32_BOUND, PROBE_BOUND, BF16_BOUND = 1e-5, 1e-3, 1e-2


def python_counterpart(variant, variants):
    """The hooks or FSDP2 run that reads the same rows in the same precision, None without one."""
    stack = "python" if variant.ranks == 1 else "fsdp2"
    for other in variants:
        if (other.stack == stack and other.method == variant.method
                and (other.adapter, other.dtype, other.data, other.ranks)
                == (variant.adapter, variant.dtype, variant.data, variant.ranks)):
            return other
    return None


def loss_bound(variant):
    """A probe in bf16 turns eps by less than a degree, which the loss feels in its fourth digit."""
    if variant.dtype == "bf16":
        return BF16_BOUND
    return PROBE_BOUND if variant.suffix == "-probe" else FP32_BOUND


def same_start(a, b):
    size = min(len(a), len(b))
    return a[:size] == b[:size]


def largest_error(variant, got, expected):
    """Of the losses that must agree; nan when one is."""
    num_steps = min(len(got), len(expected)) if variant.adapter == "none" else 1
    errors = [abs(a - b) / abs(b) for a, b in zip(got[:num_steps], expected[:num_steps],
                                                  strict=True)]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def compare_runs(variants, runs):
    """One entry per variant of the program or of torch.compile that has a counterpart."""
    results = []
    for variant in variants:
        reference = python_counterpart(variant, [v for v in variants if runs.get(v.name)])
        if variant.stack not in ("vax", "compile") or reference is None or not runs.get(
                variant.name):
            continue
        got, expected = (next(iter(runs[v.name].values())) for v in (variant, reference))
        error = largest_error(variant, got["losses"], expected["losses"])
        same_tokens = all(same_start(got[key], expected[key])
                          for key in ("tokens", "label_tokens"))
        results.append({
            "variant": variant.name, "against": reference.name, "loss": got["losses"][0],
            "expected": expected["losses"][0], "relative_error": error,
            "bound": loss_bound(variant), "same_tokens": same_tokens,
            "passed": error <= loss_bound(variant) and same_tokens})
    return results

"""Runs of the program `vaccine` whose pass 1 computes in bf16 (vaccine.probe_dtype): when the
cosine to the exact direction is measured, that measuring changes nothing, and that a bf16 run has
no probe of its own.
"""

import tempfile
from pathlib import Path

from common import Checks, ProgramRuns, defaults_of, launcher_of, program_arguments
from vaccine_parity import TRAINING, read_steps, read_weights

NUM_STEPS = 10  # two epochs of five steps

# The probe's 8 bits of mantissa (4e-3 an operation, errors of either sign) turn G by a few
# hundredths in this model of two layers. Found: 0.9997.
COSINE_BOUND = 0.99
# Two such directions lead to perturbed losses that differ in second order. Found: 3e-4.
LOSS_BOUND = 5e-3
# Ranks and micro-batches change the last bits of fp32 sums, some of which round to another bf16:
# the direction moves by far less than its distance from the exact one.
COSINE_CHANGE = 0.1  # of that distance


def start_of(runs, kind):
    if kind == "full parameters":
        return TRAINING | {"adapter.type": "none"}
    return TRAINING | {"adapter.init": runs.adapter, "adapter.dropout": 0.1}


def same_bits(checks, where, got, expected):
    """Two runs: every weight and every loss."""
    weights, expected_weights = read_weights(got), read_weights(expected)
    checks.true(weights.keys() == expected_weights.keys(), f"{where}: tensors differ")
    for name in weights.keys() & expected_weights.keys():
        checks.true(
            weights[name].dtype == expected_weights[name].dtype
            and bytes(weights[name].untyped_storage()) ==
            bytes(expected_weights[name].untyped_storage()), f"{where}: {name} differs")
    for step, expected_step in zip(read_steps(got), read_steps(expected), strict=True):
        for key in ("loss", "clean_loss", "hidden_grad_norm", "grad_norm"):
            checks.true(step[key] == expected_step[key],
                        f"{where}: {key} of step {step['step']} differs")


def check_cosines(checks, where, output, interval):
    cosines = {s["step"]: s["probe_cosine"] for s in read_steps(output)}
    checks.true(len(cosines) == NUM_STEPS, f"{where}: {len(cosines)} steps")
    for step, cosine in cosines.items():
        measured = interval > 0 and (step - 1) % interval == 0
        checks.true((cosine is not None) == measured,
                    f"{where}: probe_cosine of step {step} is {cosine}")
        if cosine is not None:
            checks.true(COSINE_BOUND < cosine < 1, f"{where}: cosine {cosine} at step {step}")
    return [cosine for cosine in cosines.values() if cosine is not None]


def probe_in_bf16(checks, runs, kind):
    start = start_of(runs, kind)
    exact = runs.align(start)
    check_cosines(checks, f"{kind}, same", exact, 0)
    bf16 = start | {"vaccine.probe_dtype": "bf16"}
    default = runs.align(bf16)  # an interval longer than the run: the first step only
    check_cosines(checks, f"{kind}, bf16", default, 100)
    for interval in (0, 1, 3):
        where = f"{kind}, probe_check_interval {interval}"
        output = runs.align(bf16 | {"vaccine.probe_check_interval": interval})
        check_cosines(checks, where, output, interval)
        same_bits(checks, where, output, default)

    losses = [[s["loss"] for s in read_steps(output)] for output in (default, exact)]
    checks.close("loss with a bf16 probe", kind, *losses, LOSS_BOUND)
    checks.true(losses[0] != losses[1], f"control: {kind}: the probe computes as the update does")
    # Beyond the first step the weights differ; there the clean losses are of one model.
    clean = [[read_steps(output)[0]["clean_loss"]] for output in (default, exact)]
    checks.close("clean loss of step 1", kind, *clean, LOSS_BOUND)


def probe_on_ranks(checks, runs, kind):
    """Full parameters with one vector a layer, so that both kinds of sums over ranks are seen."""
    full = kind == "full parameters"
    options = start_of(runs, kind) | {"vaccine.probe_dtype": "bf16",
                                      "vaccine.probe_check_interval": 3,
                                      "vaccine.direction": "shared" if full else "token"}
    expected = check_cosines(checks, f"{kind}, one rank", runs.align(options), 3)
    # Devices share no memory.
    on_device = runs.defaults.get("runtime.device") == "cuda"
    for placement in ("full", "replicate" if on_device else "node"):
        where = f"{kind}, two ranks, {placement}"
        layout = {"train.micro_batch": 2, "shard.frozen": placement, "shard.trainable": placement}
        got = check_cosines(checks, where, runs.align(options | layout, 2), 3)
        for cosine, whole in zip(got, expected, strict=True):
            checks.close("1 - cosine on ranks", where, [1 - cosine], [1 - whole], COSINE_CHANGE)


def bf16_training_has_no_probe(checks, runs, kind):
    start = start_of(runs, kind) | {"model.dtype": "bf16"}
    same = runs.align(start)
    probe = runs.align(start | {"vaccine.probe_dtype": "bf16", "vaccine.probe_check_interval": 1})
    same_bits(checks, f"{kind}, bf16 training", probe, same)
    check_cosines(checks, f"{kind}, bf16 training", probe, 0)


def main():
    arguments = program_arguments(__doc__)
    checks = Checks()
    with tempfile.TemporaryDirectory() as directory:
        runs = ProgramRuns(Path(directory), arguments.vaccine, 23, launcher_of(arguments),
                           defaults_of(arguments))
        for kind in ("LoRA", "full parameters"):
            probe_in_bf16(checks, runs, kind)
            probe_on_ranks(checks, runs, kind)
            bf16_training_has_no_probe(checks, runs, kind)
    checks.finish()


if __name__ == "__main__":
    main()

"""`vaccine plan` against runs of the program: memory by part as the run has measured it, bytes that
a rank sends in a step, what the command needs and prints.
"""

import json
import resource
import shutil
import tempfile
from pathlib import Path

import h5py

from common import MAX_LENGTH, Checks, ProgramRuns, launcher_of, program_arguments, run
from vaccine_parity import TRAINING, read_steps

# Losses, norms and the like are left out of a plan: 16 numbers of 8 bytes a collective at most.
SMALL_BYTES = 1024

FULL = {"adapter.type": "none"}
NODE = {"shard.frozen": "node", "shard.trainable": "node"}
REPLICATE = {"shard.frozen": "replicate", "shard.trainable": "replicate"}
PROBE = {"vaccine.probe_dtype": "bf16"}

# name, ranks, options of both commands
CASES = [
    ("LoRA", 1, {}),
    ("LoRA, replicate", 2, REPLICATE),
    ("LoRA, one S a micro-batch", 1, {"vaccine.norm_scope": "micro", "train.micro_batch": 1}),
    ("LoRA, bf16 probe", 2, PROBE),
    ("full", 2, FULL),
    ("full, node", 2, FULL | NODE),
    ("full, groups of one", 2, FULL | {"shard.group_size": 1}),
    ("full, bf16 probe, micro-batches", 2, FULL | PROBE | {"train.micro_batch": 1}),
    ("full, bf16, sft", 2, FULL | {"model.dtype": "bf16", "train.method": "sft"}),
]
EXACT_PARTS = ["weights", "slots", "gradients", "optimizer", "drift", "checkpoint"]


def memory_of(output):
    """Planned and measured bytes by part, of the run that wrote `output`."""
    events = map(json.loads, (output / "run.jsonl").read_text().splitlines())
    (memory,) = [event for event in events if event["event"] == "memory"]
    return memory["parts"], memory["process_bytes"]


def plan(runs, model, options):
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    return run([runs.program, "plan", "--model.path", model, *flags])


def parse_bytes(text):
    """Bytes by name of each section: memory, then traffic; "in all" is a name too."""
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    sections = []
    for line in text.splitlines():
        if not line.startswith("  "):
            sections.append({})
            continue
        name, (number, unit) = " ".join(line.split()[:-2]), line.split()[-2:]
        sections[-1][name] = float(number) * units[unit]
    return sections[-2:]


def compare_memory(checks, where, output, planned):
    parts, process_bytes = memory_of(output)
    for name in EXACT_PARTS:
        of_part = parts[name]
        checks.true(of_part["planned_bytes"] == of_part["measured_bytes"], f"{where}: {name}: "
                    f"{of_part}")
    # The plan is for the longest rows together, in which no batch of the run need have them.
    for name in ("activations", "perturbation"):
        of_part = parts[name]
        checks.true(0.5 * of_part["planned_bytes"] <= of_part["measured_bytes"]
                    <= 1.02 * of_part["planned_bytes"] + scratch_of(name, where),
                    f"{where}: {name}: {of_part}")
    # The subcommand takes every row to be as long as it may be, and measures no drift.
    for name, bytes_of_part in planned.items():
        if name in ("weights", "slots", "gradients", "optimizer"):
            checks.true(abs(bytes_of_part - parts[name]["planned_bytes"]) <= 0.05 * 2**10 + 1,
                        f"{where}: `vaccine plan` says {bytes_of_part} of {name}")
    # Not what this interpreter was before it became the program.
    own_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    checks.true(process_bytes < 0.75 * own_bytes,
                f"{where}: process_bytes {process_bytes}, the test's own {own_bytes}")
    checks.true(process_bytes > sum(part["measured_bytes"] for part in parts.values()),
                f"{where}: process_bytes {process_bytes}")


def scratch_of(name, where):
    """What the bf16 library keeps while it multiplies, much beside so small a model."""
    return 2**18 if name == "activations" and "bf16" in where else 0


def compare_traffic(checks, where, output, planned):
    """Of the second step: the first gathers frozen weights that later ones find."""
    sent = read_steps(output)[1]["comm_bytes"]
    total = planned.get("in all", 0)
    checks.true(-0.05 * 2**10 - 1 <= sent - total <= SMALL_BYTES,
                f"{where}: sent {sent} bytes, planned {total}")


def compare_checkpoint(checks, where, output, text):
    """The data that a checkpoint holds, to the digit that is printed."""
    sizes = []
    with h5py.File(output / "checkpoints" / "step-000002" / "index.h5") as index:
        index.visititems(lambda _, item: sizes.append(item.nbytes)
                         if isinstance(item, h5py.Dataset) else None)
    checks.true(f"a checkpoint has {sum(sizes) / 2**10:.1f} KiB of data" in text,
                f"{where}: a checkpoint has {sum(sizes)} bytes, planned: {text.splitlines()[1]}")


def runs_as_planned(checks, runs):
    for where, num_ranks, options in CASES:
        full = "adapter.type" in options
        start = {} if full else {"adapter.init": runs.adapter, "adapter.dropout": 0.1}
        output = runs.align(TRAINING | start | options | {"train.max_steps": 2,
                                                          "train.epochs": None,
                                                          "checkpoint.interval": 2}, num_ranks)
        lora = {} if full else {"adapter.r": 4}  # as the initial adapter has it
        text = plan(runs, runs.base, options | lora | {"plan.ranks": num_ranks,
                                                       "data.max_length": MAX_LENGTH})
        memory, traffic = parse_bytes(text)
        compare_memory(checks, where, output, memory)
        compare_traffic(checks, where, output, traffic)
        compare_checkpoint(checks, where, output, text)


def needs_a_configuration_only(checks, runs):
    """No weights, no tokenizer, no data; ranks that are not there."""
    alone = runs.work / "alone"
    alone.mkdir()
    shutil.copy(runs.base / "config.json", alone)
    options = FULL | {"plan.ranks": 64, "plan.ranks_per_node": 8}
    text = plan(runs, alone, options)
    checks.true(text == plan(runs, runs.base, options), "plan reads more than config.json")
    checks.true("64 ranks, 8 a node" in text and "trainable" in text, text)
    schedule = run([runs.program, "plan", "--schedule", "--model.path", alone,
                    "--adapter.type", "none", "--plan.ranks", 2])
    checks.true("trainable: 2 slots" in schedule and "nothing is gathered" in schedule, schedule)
    for word in ("embed", "head", "layers.0"):
        checks.true(word in schedule, f"--schedule names no unit like {word}: {schedule}")
    checks.true("slots" not in plan(runs, alone, FULL | {"plan.ranks": 1}),
                "one rank needs no slots")


def plans_for_gpus(checks, runs):
    """Without one: bf16 by default, and nothing that ranks of a host would share."""
    replicated = {"plan.ranks": 4, "plan.ranks_per_node": 2, "shard.frozen": "replicate"}
    host, _ = parse_bytes(plan(runs, runs.base, replicated | {"model.dtype": "bf16"}))
    device, _ = parse_bytes(plan(runs, runs.base, replicated | {"runtime.device": "cuda"}))
    # Of frozen weights each of a node's two ranks has half where they share it; on devices each of
    # the four has a quarter, and everything gathered.
    quarter = host["weights"] - device["weights"]
    gathered = device["slots"] - host["slots"]  # both gather the adapter
    checks.true(quarter > 0 and abs(gathered / (4 * quarter) - 1) < 0.02,
                f"weights of a rank: GPU {device['weights']}, host {host['weights']}; gathered on a "
                f"GPU: {gathered}")


def refuses(checks, runs):
    for options, message in [
            ({"plan.ranks": 6, "plan.ranks_per_node": 4},
             "plan.ranks_per_node: expected a divisor"),
            ({"plan.ranks": 6, "shard.group_size": 4}, "shard.group_size: expected a divisor"),
            ({"runtime.device": "cuda", "shard.frozen": "node"},
             "expected full or replicate on a GPU"),
            ({"vaccine.probe_dtype": "fp8"}, "expected same or bf16 on a CPU, found fp8"),
            ({"vaccine.layers": 7}, "vaccine.layers: expected layers in [0, 1]")]:
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        output = run_and_read_errors([runs.program, "plan", "--model.path", runs.base, *flags])
        checks.true(message in output, f"{options}: {output}")
    output = run_and_read_errors([runs.program, "align", "--schedule"])
    checks.true("unknown option --schedule" in output, output)


def run_and_read_errors(arguments):
    """Of a program that must find its input wrong: exit code 2."""
    return run(["sh", "-c", '"$@" 2>&1', "sh", *arguments], expected_exit=2)


def main():
    arguments = program_arguments(__doc__)
    checks = Checks()
    with tempfile.TemporaryDirectory() as directory:
        runs = ProgramRuns(Path(directory), arguments.vaccine, 10, launcher_of(arguments))
        runs_as_planned(checks, runs)
        needs_a_configuration_only(checks, runs)
        plans_for_gpus(checks, runs)
        refuses(checks, runs)
    checks.finish()


if __name__ == "__main__":
    main()

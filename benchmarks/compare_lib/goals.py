"""What is compared with what, and the goal of each comparison.

A value is taken per round, from two runs of the same round, so that a slow phase of the machine
meets both; reported are the median and the extremes over the rounds. Quantities:
  speed       time of a step of the baseline / of the variant       at least the goal
  throughput  the same per sequence, for runs of unequal ranks      at least the goal
  cost        time of a step of the variant / of the baseline       at most the goal
  memory      peak memory of the variant / of the baseline          at most the goal
Goals are for the 134 M model on a processor with AMX; without it those of bf16 are out of reach for
reasons that are not the program's, and the report says so.
"""

import statistics
from dataclasses import dataclass

from .variants import ADAPTERS, DTYPES, cell_name, rank_cell_name

AT_LEAST = ("speed", "throughput")

SFT_SPEED = {("lora", "fp32"): 1.5, ("lora", "bf16"): 3.3, ("full", "fp32"): 1.4,
             ("full", "bf16"): 2.0}
COMPILE_SPEED = {("lora", "fp32"): 1.5, ("lora", "bf16"): 2.2, ("full", "fp32"): 1.2,
                 ("full", "bf16"): 1.3}
VACCINE_SPEED = {("lora", "fp32"): 2.5, ("lora", "bf16"): 3.5, ("full", "fp32"): 2.2,
                 ("full", "bf16"): 2.4}
TWO_PASS_COST = {"full": 1.70}
RECOMPUTE_COST = {"full": 1.52, "lora": 1.67}
PROBE_COST = {"lora": 1.30, "full": 1.25}
RANKS_THROUGHPUT = 1.8
FSDP2_THROUGHPUT = {("full", "fp32"): 2.0}
ONE_RANK_COST = 1.03
LORA_FP32_MEMORY = 0.55


@dataclass(frozen=True)
class Comparison:
    row: str  # of the table of goals
    label: str
    variant: str
    baseline: str
    quantity: str
    goal: float | None = None  # None: of interest, without a goal
    needs_amx: bool = False

    def value(self, run, baseline):
        if self.quantity == "memory":
            return run["peak_bytes"] / baseline["peak_bytes"]
        ratio = run["seconds_per_step"] / baseline["seconds_per_step"]
        if self.quantity == "throughput":
            ratio *= baseline["sequences"] / run["sequences"]
        return 1 / ratio if self.quantity in AT_LEAST else ratio

    def reached(self, value):
        if self.goal is None:
            return None
        return value >= self.goal if self.quantity in AT_LEAST else value <= self.goal


def main_comparisons(adapter, dtype, threads):
    cell, key = cell_name(adapter, dtype, threads), (adapter, dtype)
    of, bf16 = f"{cell}/", dtype == "bf16"
    probed = "-probe" if dtype == "fp32" else ""
    yield Comparison("SFT against Python", cell, of + "vax-sft", of + "python-sft", "speed",
                     SFT_SPEED[key], bf16)
    yield Comparison("SFT against torch.compile", cell, of + "vax-sft", of + "compile-sft", "speed",
                     COMPILE_SPEED[key], bf16)
    yield Comparison("Vaccine against Python" + (", pass 1 in bf16" if probed else ""), cell,
                     of + "vax-vaccine" + probed, of + "python-vaccine", "speed",
                     VACCINE_SPEED[key], True)
    if probed:
        yield Comparison("Vaccine against Python, one precision", cell, of + "vax-vaccine",
                         of + "python-vaccine", "speed")
        yield Comparison("Vaccine with pass 1 in bf16 / SFT", cell, of + "vax-vaccine-probe",
                         of + "vax-sft", "cost", PROBE_COST[adapter], True)
    yield Comparison("Vaccine / SFT", cell, of + "vax-vaccine", of + "vax-sft", "cost",
                     TWO_PASS_COST.get(adapter))
    yield Comparison("Vaccine / SFT with recomputation", cell, of + "vax-vaccine-recompute",
                     of + "vax-sft-recompute", "cost", RECOMPUTE_COST[adapter])
    yield Comparison("Vaccine / SFT, Python", cell, of + "python-vaccine", of + "python-sft",
                     "cost")
    for method in ("sft", "vaccine"):
        goal = LORA_FP32_MEMORY if key == ("lora", "fp32") else None
        yield Comparison(f"peak memory against Python, {method}", cell, of + f"vax-{method}",
                         of + f"python-{method}", "memory", goal)
    yield Comparison("sharded with one rank / unsharded", cell, of + "vax-sft",
                     of + "vax-sft-unsharded", "cost", ONE_RANK_COST)


def rank_comparisons(adapter, dtype):
    cell, one = rank_cell_name(adapter, dtype), cell_name(adapter, dtype, 1)
    two = "two ranks against one, "
    yield Comparison(two + "sft", cell, f"{cell}/vax-sft", f"{one}/vax-sft-unsharded",
                     "throughput", RANKS_THROUGHPUT)
    yield Comparison(two + "vaccine", cell, f"{cell}/vax-vaccine", f"{one}/vax-vaccine",
                     "throughput", RANKS_THROUGHPUT)
    yield Comparison(two + "sft, node", cell, f"{cell}/vax-sft-node", f"{one}/vax-sft-unsharded",
                     "throughput", RANKS_THROUGHPUT)
    yield Comparison("two ranks against FSDP2", cell, f"{cell}/vax-sft", f"{cell}/fsdp2-sft",
                     "throughput", FSDP2_THROUGHPUT.get((adapter, dtype)))
    yield Comparison("peak memory of a rank against FSDP2", cell, f"{cell}/vax-sft",
                     f"{cell}/fsdp2-sft", "memory")


def real_comparisons(dtype, threads):
    cell = cell_name("lora", dtype, threads, "-real")
    for method in ("sft", "vaccine"):
        yield Comparison(f"reference batches, {method} against Python", cell,
                         f"{cell}/vax-{method}", f"{cell}/python-{method}", "speed")
    yield Comparison("reference batches, vaccine, pass 1 in bf16", cell,
                     f"{cell}/vax-vaccine-probe", f"{cell}/python-vaccine", "speed")


def all_comparisons(thread_counts):
    pairs = [(adapter, dtype) for adapter in ADAPTERS for dtype in DTYPES]
    comparisons = [c for threads in thread_counts for pair in pairs
                   for c in main_comparisons(*pair, threads)]
    comparisons += [c for pair in pairs for c in rank_comparisons(*pair)]
    return comparisons + [c for dtype in DTYPES
                          for c in real_comparisons(dtype, max(thread_counts))]


def evaluate(comparison, runs):
    """`runs`: variant -> {round: run}. None when no round has both."""
    variant, baseline = runs.get(comparison.variant, {}), runs.get(comparison.baseline, {})
    values = [comparison.value(variant[r], baseline[r]) for r in sorted(variant.keys() & baseline)]
    if not values:
        return None
    median = statistics.median(values)
    return {"median": median, "min": min(values), "max": max(values), "values": values,
            "reached": comparison.reached(median)}

"""The runs that compare.py makes in every round, in the order in which they are made: a run stands
next to what it is compared with, so that both meet the machine in the same mood.

Name of a variant: CELL/STACK-METHOD[-WITH], CELL = ADAPTER-DTYPE-THREADSt[-real], or -2x1t for two
ranks of one thread. Stacks: python (transformers + peft, hooks for Vaccine), compile
(torch.compile), fsdp2 (fully_shard over gloo), vax (the program `vaccine`).
"""

from dataclasses import dataclass

ADAPTERS = {"lora": "lora", "full": "none"}  # name in a cell: adapter.type
DTYPES = ("fp32", "bf16")
SEQUENCES = 5  # a rank and step
RANKS = 2
UNSHARDED = {"shard.frozen": "replicate", "shard.trainable": "replicate"}
SHARDED = {"shard.frozen": "full", "shard.trainable": "full"}
PROBE = {"vaccine.probe_dtype": "bf16"}


@dataclass(frozen=True)
class Variant:
    cell: str
    stack: str  # python | compile | fsdp2 | vax
    method: str  # sft | vaccine
    adapter: str  # lora | none
    dtype: str
    threads: int  # a rank
    ranks: int = 1
    data: str = "even"
    suffix: str = ""
    options: tuple = ()  # (key, value) of the program's own options

    @property
    def name(self):
        return f"{self.cell}/{self.stack}-{self.method}{self.suffix}"

    @property
    def is_program(self):
        return self.stack == "vax"

    @property
    def warmup_steps(self):
        return 2 if self.stack == "compile" else 1

    def total_steps(self, timed_steps):
        return self.warmup_steps + timed_steps


def cell_name(adapter, dtype, threads, ending=""):
    return f"{adapter}-{dtype}-{threads}t{ending}"


def rank_cell_name(adapter, dtype):
    return f"{adapter}-{dtype}-{RANKS}x1t"


class _Cell:
    """Collects the variants of one cell."""

    def __init__(self, variants, cell, adapter, dtype, **fixed):
        self.variants, self.fixed = variants, fixed
        self.fixed |= {"cell": cell, "adapter": ADAPTERS[adapter], "dtype": dtype}

    def add(self, stack, method, suffix="", options=None):
        self.variants.append(Variant(stack=stack, method=method, suffix=suffix,
                                     options=tuple((options or {}).items()), **self.fixed))


def add_main_cell(variants, adapter, dtype, threads, is_widest):
    cell = _Cell(variants, cell_name(adapter, dtype, threads), adapter, dtype, threads=threads)
    cell.add("python", "vaccine")
    cell.add("vax", "vaccine")
    if dtype == "fp32":
        cell.add("vax", "vaccine", "-probe", PROBE)
    cell.add("python", "sft")
    cell.add("vax", "sft")
    if is_widest:
        cell.add("compile", "sft")
        cell.add("vax", "sft", "-recompute", {"train.recompute": "all"})
        cell.add("vax", "vaccine", "-recompute", {"train.recompute": "pass2"})
    if threads == 1:
        cell.add("vax", "sft", "-unsharded", UNSHARDED)
        add_rank_cell(variants, adapter, dtype)


def add_rank_cell(variants, adapter, dtype):
    """Everything sharded over the ranks; beside it the large plane in memory that the node's ranks
    share: the frozen weights, or with full parameters the trained ones."""
    cell = _Cell(variants, rank_cell_name(adapter, dtype), adapter, dtype, threads=1, ranks=RANKS)
    cell.add("vax", "sft", "", SHARDED)
    cell.add("fsdp2", "sft")
    if dtype == "fp32":
        plane = "shard.frozen" if adapter == "lora" else "shard.trainable"
        cell.add("vax", "sft", "-node", SHARDED | {plane: "node"})
        cell.add("vax", "vaccine", "", SHARDED)


def add_real_cell(variants, dtype, threads):
    cell = _Cell(variants, cell_name("lora", dtype, threads, "-real"), "lora", dtype,
                 threads=threads, data="real")
    cell.add("python", "sft")
    cell.add("vax", "sft")
    cell.add("python", "vaccine")
    cell.add("vax", "vaccine")
    if dtype == "fp32":
        cell.add("vax", "vaccine", "-probe", PROBE)


def all_variants(thread_counts):
    """compile, recomputation and reference batches at the largest thread count; ranks with 1."""
    variants = []
    widest = max(thread_counts)
    for threads in thread_counts:
        for adapter in ADAPTERS:
            for dtype in DTYPES:
                add_main_cell(variants, adapter, dtype, threads, threads == widest)
    for dtype in DTYPES:
        add_real_cell(variants, dtype, widest)
    return variants

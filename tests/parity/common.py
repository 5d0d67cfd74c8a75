"""What the parity tests share: seeded tiny Llamas, running the programs, and comparing tensors.

The reference is always computed here, when the test runs, with transformers and peft from seeded
weights; no expected value is stored. Everything runs in fp32 on one thread, so that a reported
error is rounding and nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

# Set before torch is imported: one thread here and in every program that a test starts.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch  # noqa: E402
import transformers  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402

torch.set_num_threads(1)

GLOBAL_BATCH = 5
MAX_LENGTH = 28  # ids; cuts some rows
VOCAB_SIZE = 330
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def run(arguments, expected_exit=0):
    """Runs a program to its end; its output becomes part of the failure message."""
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False)
    if done.returncode != expected_exit:
        sys.exit(f"exit code {done.returncode}, expected {expected_exit}: "
                 f"{' '.join(str(a) for a in arguments)}\n{done.stdout}\n{done.stderr}")
    return done.stdout


class Checks:
    """Collects comparisons, so that one failure does not hide the others.

    close() bounds ||got - expected|| / max(||expected||, floor). A tensor that is zero up to
    cancellation has no meaningful relative error: its rounding error follows the size of the terms
    that cancelled. `floor` stands for that size; below it the bound is the absolute error
    bound * floor. NaN fails, since no comparison with it is true.
    """

    def __init__(self):
        self.worst = {}
        self.failures = []

    def relative_error(self, got, expected, floor=0.0):
        got = torch.as_tensor(got, dtype=torch.float64)
        expected = torch.as_tensor(expected, dtype=torch.float64)
        if got.shape != expected.shape:
            return float("inf")
        scale = max(expected.norm().item(), floor)
        difference = (got - expected).norm().item()
        return difference / scale if scale > 0 else (0.0 if difference == 0 else float("inf"))

    def close(self, kind, where, got, expected, bound, floor=0.0):
        error = self.relative_error(got, expected, floor)
        if error >= self.worst.get(kind, (-1.0,))[0] or error != error:
            self.worst[kind] = (error, bound, where)
        if not error <= bound:
            self.failures.append(f"{kind} of {where}: relative error {error:.3g}, "
                                 f"bound {bound:.3g}")

    def true(self, statement, what):
        if not statement:
            self.failures.append(what)

    def finish(self):
        """Prints the largest error of each kind; ends the test."""
        for kind, (error, bound, where) in sorted(self.worst.items()):
            print(f"{kind:28} largest error {error:9.3g}  bound {bound:9.3g}  ({where})")
        for failure in self.failures:
            print("FAILED", failure)
        sys.exit(1 if self.failures else 0)


def make_model(directory, seed, **shape):
    """A Llama with every parameter random (norms and biases too), saved to `directory`."""
    config = transformers.LlamaConfig(**{
        "vocab_size": 61, "hidden_size": 32, "intermediate_size": 52, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128,
        "bos_token_id": 1, "eos_token_id": 2,
        # None, as Llama-2 has it: an Embedding computes no gradient for its padding index.
        "pad_token_id": None} | shape)
    config._attn_implementation = "eager"
    model = transformers.LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
    model.save_pretrained(directory)
    return model


def load_model(directory):
    return transformers.LlamaForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager")


def make_adapter(model, directory, seed, r=4, alpha=6, targets=None):
    """`model` with a LoRA adapter whose B is not zero (all gradients differ from zero), saved."""
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=0.0, bias="none",
                        target_modules=targets or PROJECTIONS, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(0.3 * noise / parameter.shape[1] ** 0.5)
    adapted.save_pretrained(directory)
    return adapted


def adapter_name(parameter_name):
    """The name in a PEFT file of a parameter of a PeftModel."""
    return parameter_name.replace(".default.", ".")


def pad(sequences, label_begins):
    """Right-padded ids, attention mask and labels [B, T] of id lists."""
    width = max(len(s) for s in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    labels = torch.full((len(sequences), width), -100)
    for row, (sequence, begin) in enumerate(zip(sequences, label_begins, strict=True)):
        ids[row, :len(sequence)] = torch.tensor(sequence)
        mask[row, :len(sequence)] = 1
        labels[row, begin:len(sequence)] = ids[row, begin:len(sequence)]
    return ids, mask, labels


def cross_entropy_sum(logits, labels):
    """Sum over the label tokens, each predicted at the position before it, and their number."""
    targets = labels[:, 1:]
    total = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=-100,
        reduction="sum")
    return total, int((targets != -100).sum())


class AttentionBoundary:
    """Hooks on the outputs e_l of the attention modules: e_l + delta_l, delta_l a leaf.

    So the gradient of delta_l is G_l = dL/de_l, whether or not anything below is trained.
    """

    def __init__(self, model):
        modules = [m for name, m in model.named_modules() if name.endswith(".self_attn")]
        self.outputs = [None] * len(modules)
        self.deltas = None
        self.handles = [m.register_forward_hook(self._hook(layer))
                        for layer, m in enumerate(modules)]

    def _hook(self, layer):
        def add(_module, _inputs, output):
            e = output[0]
            self.outputs[layer] = e.detach()
            if self.deltas[layer] is None:
                self.deltas[layer] = torch.zeros_like(e).requires_grad_()
            return (e + self.deltas[layer], *output[1:])
        return add

    def measure(self):
        """The next forward adds zeros whose gradients can be read from `deltas`."""
        self.deltas = [None] * len(self.outputs)

    def perturb(self, perturbations):
        """The next forward adds these constants, one per layer."""
        self.deltas = list(perturbations)

    def gradients(self):
        return [delta.grad for delta in self.deltas]

    def remove(self):
        for handle in self.handles:
            handle.remove()


def write_sequences(path, sequences, label_begins, micro_batches=None):
    """`micro_batches`: the number of each sequence's, ascending; one for all by default."""
    rows = [{"ids": s, "label_begin": b, "micro_batch": m} for s, b, m
            in zip(sequences, label_begins, micro_batches or [0] * len(sequences), strict=True)]
    Path(path).write_text(json.dumps(rows))


def train_tokenizer(directory, vocab_size, seed=3):
    """A small sentencepiece model with byte fallback, as Llama's; returns it. ids: 0 unk, 1 bos,
    2 eos, as in the configuration of make_model."""
    import sentencepiece
    words = make_words(seed)
    text = Path(directory) / "corpus.txt"
    text.write_text("\n".join(" ".join(words[i:i + 6]) for i in range(0, len(words) - 6, 2)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(Path(directory) / "tokenizer"), vocab_size=vocab_size,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, minloglevel=2)
    text.unlink()
    (Path(directory) / "tokenizer.vocab").unlink()
    return sentencepiece.SentencePieceProcessor(
        model_file=str(Path(directory) / "tokenizer.model"))


def make_words(seed, count=400):
    """Words of seeded letters with the frequencies of a text: short ones come again and again."""
    generator = torch.Generator().manual_seed(seed)
    letters = "etaoinshrdlu"

    def number(limit):
        return int(torch.randint(0, limit, (1,), generator=generator))
    vocabulary = ["".join(letters[number(len(letters))] for _ in range(2 + number(4)))
                  for _ in range(40)]
    return [vocabulary[min(number(40), number(40))] for _ in range(count)]


def write_data(path, num_rows, seed):
    """Alpaca rows; some with an input, some longer than MAX_LENGTH, one of bytes only."""
    words = make_words(seed, 30 * num_rows)
    rows = []
    for i in range(num_rows):
        at = words[30 * i:30 * i + 30]
        rows.append({"instruction": " ".join(at[:1 + i % 4]),
                     "input": " ".join(at[8:9 + i % 2]) if i % 3 == 0 else "",
                     "output": " ".join(at[12:13 + i % 8])})
    rows[1]["output"] = "zebra \u00e9\u4e2d"
    path.write_text(json.dumps(rows))
    return rows


def tokenize(tokenizer, row):
    """Template plain: ids of one row and where its labels begin."""
    prompt = row["instruction"] + (" " + row["input"] if row["input"] else "")
    ids = [1] + tokenizer.encode(prompt + " " + row["output"]) + [2]
    return ids[:MAX_LENGTH], 1 + len(tokenizer.encode(prompt))


class ProgramRuns:
    """Base model with tokenizer, an adapter with B != 0, data; and runs of the program on them."""

    def __init__(self, work, program, num_rows, launcher=(), defaults=None, shape=None):
        """`launcher`: mpiexec and its options up to the number of ranks. `defaults`: options of every
        run that does not say otherwise. `shape`: of the base model, as for make_model()."""
        self.work, self.program, self.launcher, self.num_runs = work, program, launcher, 0
        self.defaults = defaults or {}
        self.base, self.adapter, self.data = work / "base", work / "init", work / "data.json"
        make_model(self.base, 11, **{"vocab_size": VOCAB_SIZE, "num_key_value_heads": 2}
                   | (shape or {}))
        self.tokenizer = train_tokenizer(self.base, VOCAB_SIZE)
        make_adapter(load_model(self.base), self.adapter, 12)
        self.rows = write_data(self.data, num_rows, 13)

    def global_batches(self, epochs):
        """Global batches of (ids, label_begin) in file order; an epoch's last may be smaller."""
        samples = [tokenize(self.tokenizer, row) for row in self.rows]
        return epochs * [samples[i:i + GLOBAL_BATCH] for i in range(0, len(samples), GLOBAL_BATCH)]

    def align(self, options, ranks=1):
        """Output directory of a run, of two epochs unless `options` say otherwise."""
        self.num_runs += 1
        output = self.work / f"run{self.num_runs}"
        options = {"model.path": self.base, "data.path": self.data, "data.template": "plain",
                   "data.shuffle": "false", "data.max_length": MAX_LENGTH,
                   "train.global_batch": GLOBAL_BATCH, "train.epochs": 2, "runtime.threads": 1,
                   "runtime.device": "cpu", "output.dir": output} | self.defaults | options
        self.start("align", options, ranks)
        return output

    def start(self, subcommand, options, ranks=1):
        """Options with the value None are left out."""
        mpi = [*self.launcher, ranks] if ranks > 1 else []
        flags = [part for name, value in options.items() if value is not None
                 for part in (f"--{name}", value)]
        run([*mpi, self.program, subcommand, *flags])


def program_arguments(description, **positional):
    """The arguments of a test that runs the program under mpiexec; `positional`: name -> choices."""
    parser = argparse.ArgumentParser(description=description)
    for name, choices in positional.items():
        parser.add_argument(name, choices=choices)
    parser.add_argument("--vaccine", required=True, type=Path)
    parser.add_argument("--mpiexec", required=True)
    parser.add_argument("--numproc-flag", required=True)
    parser.add_argument("--default", action="append", default=[], metavar="OPTION=VALUE",
                        help="of every run that does not say otherwise")
    return parser.parse_args()


def defaults_of(arguments):
    return dict(default.split("=", 1) for default in arguments.default)


def launcher_of(arguments):
    return [arguments.mpiexec, "--oversubscribe", arguments.numproc_flag]

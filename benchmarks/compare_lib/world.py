"""What every run of compare.py shares: one checkpoint and two data files, made once.

  even.jsonl  rows of exactly 100 ids, 80 of them labels: the main table. A row is so many words
              that are single pieces of the tokenizer, rendered by template `plain`.
  real.jsonl  the reference batches: rows of --data as they are (template `alpaca`), or generated
              ones whose lengths follow alignment data under the alpaca template, which alone is
              some 35 ids: prompts uniform in 40..70 ids, answers log-normal with median 60 and
              sigma 0.5, between 20 and 120. Every batch of 5 has the five middle quantiles of both
              (0.1, 0.3, ... 0.9) in random order, so that few batches stand for many: 121 ids a row
              on the average, which leaves 40 % of Python's 200 to padding.

The ids and labels of both sides come from the program: `vaccine tokenize --data.path` writes
*.samples.jsonl, which the Python side reads. A row of an unexpected length is an error.
"""

import io
import json
import math
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from .variants import RANKS, SEQUENCES

SEED = 20240202
EVEN_PROMPT, EVEN_LABELS = 20, 80  # ids with bos; label tokens with eos
MAX_LENGTH = 200
MAX_TOKENIZER_ROWS = 20000  # of --data, that train a tokenizer when none is given


@dataclass(frozen=True)
class Shape:
    """Keys as in config.json."""
    hidden_size: int = 768
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    vocab_size: int = 32000


QUICK_SHAPE = Shape(hidden_size=64, intermediate_size=160, num_hidden_layers=2,
                    num_attention_heads=4, vocab_size=4800)


@dataclass(frozen=True)
class Data:
    path: Path
    samples: Path  # of `vaccine tokenize --data.path`
    template: str
    pad_to: int    # Python's width of a batch; 0: its longest row


@dataclass(frozen=True)
class World:
    model: Path
    data: dict     # "even" and "real": Data
    summary: dict  # for the report


def read_json_rows(path):
    """Rows of a JSON array or of JSON lines."""
    text = Path(path).read_text()
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def random_words(rng, count):
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    return sorted({"".join(rng.choice(letters) for _ in range(rng.randint(3, 6)))
                   for _ in range(count)})


def train_tokenizer(rng, vocab_size, real_rows):
    """A sentencepiece BPE model of the Llama kind, as bytes: of generated words and of the rows of
    --data, where given. It has vocab_size pieces or as many as the text yields."""
    import sentencepiece
    words = random_words(rng, 1000)
    texts = [" ".join(rng.choices(words, k=20)) for _ in range(3000)]
    texts += [" ".join(str(row.get(key, "")) for key in ("instruction", "input", "output"))
              for row in real_rows[:MAX_TOKENIZER_ROWS]]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="bpe",
        vocab_size=vocab_size, hard_vocab_limit=False, character_coverage=1.0, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2)
    return model.getvalue()


def single_piece_words(tokenizer_path):
    """Words that are one id each wherever they stand between spaces."""
    import sentencepiece
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_path))
    words = []
    for i in range(tokenizer.vocab_size()):
        word = tokenizer.id_to_piece(i)[1:]
        if (tokenizer.id_to_piece(i)[0] == "\u2581" and len(word) > 2 and word.isascii()
                and word.isalpha() and tokenizer.encode(word) == [i]):
            words.append(word)
    if not words:
        raise SystemExit(f"compare: {tokenizer_path} has no piece that is a word of three letters")
    return words


def make_row(rng, words, prompt_ids, label_tokens):
    """A row of so many ids under template `plain`: bos and the prompt, the answer and eos."""
    return {"instruction": " ".join(rng.choices(words, k=prompt_ids - 1)), "input": "",
            "output": " ".join(rng.choices(words, k=label_tokens - 1))}


def real_lengths(rng, num_batches):
    """(prompt ids, label tokens) of the rows of so many batches."""
    quantiles = [(i + 0.5) / SEQUENCES for i in range(SEQUENCES)]
    prompts = [round(40 + 30 * q) for q in quantiles]
    answers = [round(60 * math.exp(0.5 * NormalDist().inv_cdf(q))) for q in quantiles]
    answers = [min(max(answer, 20), 120) for answer in answers]
    return [lengths for _ in range(num_batches)
            for lengths in zip(rng.sample(prompts, SEQUENCES), rng.sample(answers, SEQUENCES))]


def make_data(program, model, path, template, pad_to):
    samples = path.with_suffix(".samples.jsonl")
    shown = program("tokenize", "--model.path", model, "--data.path", path, "--data.template",
                    template, "--data.max_length", MAX_LENGTH)
    samples.write_text(shown)
    return Data(path, samples, template, pad_to)


def lengths_of(data):
    """(ids, labels) of every row."""
    rows = [json.loads(line) for line in data.samples.read_text().splitlines()]
    return [(len(row["ids"]), sum(label is not None for label in row["labels"])) for row in rows]


def program_caller(path):
    def call(*arguments):
        done = subprocess.run([str(a) for a in (path, *arguments)], capture_output=True, text=True,
                              check=False)
        if done.returncode != 0:
            raise SystemExit(f"compare: exit code {done.returncode} of {path} {arguments[0]}: "
                             f"{done.stderr.strip()}")
        return done.stdout
    return call


def make_checkpoint(program, work, shape, tokenizer):
    model = work / "model"
    keys = [part for key, value in vars(shape).items() for part in (f"--init.{key}", value)]
    program("init", *keys, "--init.tokenizer_path", tokenizer, "--model.dtype", "fp32",
            "--output.dir", model)
    return model


def build(arguments, work, shape, num_steps):
    """Makes the checkpoint and the data files, rows for so many steps, in `work`."""
    program = program_caller(arguments.vaccine)
    rng = random.Random(SEED)
    num_even_rows, num_real_rows = num_steps * SEQUENCES * RANKS, num_steps * SEQUENCES
    given = read_json_rows(arguments.data) if arguments.data else []
    if arguments.data and len(given) < num_real_rows:
        raise SystemExit(f"compare: {arguments.data} has {len(given)} rows, expected at least "
                         f"{num_real_rows}")
    tokenizer = arguments.tokenizer or work / "tokenizer.model"
    if not arguments.tokenizer:
        tokenizer.write_bytes(train_tokenizer(rng, shape.vocab_size, given))
    model = make_checkpoint(program, work, shape, tokenizer)
    words = single_piece_words(tokenizer)
    even, real = work / "even.jsonl", work / "real.jsonl"
    write_rows(even, [make_row(rng, words, EVEN_PROMPT, EVEN_LABELS)
                      for _ in range(num_even_rows)])
    write_rows(real, given[:num_real_rows] or [make_row(rng, words, *lengths)
                                               for lengths in real_lengths(rng, num_steps)])
    data = {"even": make_data(program, model, even, "plain", 0),
            "real": make_data(program, model, real, "alpaca" if given else "plain", MAX_LENGTH)}
    wrong = set(lengths_of(data["even"])) - {(EVEN_PROMPT + EVEN_LABELS, EVEN_LABELS)}
    if wrong:
        raise SystemExit(f"compare: rows of even.jsonl have lengths {wrong} (ids, labels)")
    return World(model, data, describe(arguments, shape, data["real"]))


def describe(arguments, shape, real):
    ids = [size for size, _ in lengths_of(real)]
    labels = [count for _, count in lengths_of(real)]
    return {"model": vars(shape),
            "tokenizer": str(arguments.tokenizer or "trained on the data"),
            "even": {"ids": EVEN_PROMPT + EVEN_LABELS, "labels": EVEN_LABELS},
            "real": {"source": str(arguments.data or "generated"), "padded_to": MAX_LENGTH,
                     "rows": len(ids), "mean_ids": sum(ids) / len(ids),
                     "mean_labels": sum(labels) / len(labels)}}

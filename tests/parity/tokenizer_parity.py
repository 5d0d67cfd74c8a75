"""The tokenizer against the sentencepiece library: equal ids and equal decoded text, no tolerance.

Trains small BPE models of different kinds on a generated corpus, then compares thousands of seeded
strings a model. With special tokens the reference is written out here: the text is split at them
and the library encodes every part. That this is the rule of Hugging Face's SentencePiece tokenizers
with legacy=True is checked with transformers' own class.
"""

import argparse
import io
import json
import pathlib
import random
import re
import subprocess
import tempfile
import time

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import AddedToken
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

STRINGS_PER_MODEL = 3000
LONG_STRINGS = 6

SYLLABLES = "ba ne ti ro lu ka shi mo ver tan lo pre est in ing the an er on de".split()
EXOTIC = [
    "é", "e\u0301", "ß", "Ω", "Ж", "中文", "字", "日本", "한", "ا", "ש", "\u200d", "\u200b", "\u2028",
    "\u00a0", "\u3000", "\ufeff", "\ufffd", "▁", "▁▁", "🙂",
    "👩\u200d👩\u200d👧", "🏳️\u200d🌈", "\U0010ffff",
    "\ud7ff", "\ue000", "a\u0300\u0301\u0302", "ﬁ", "½", "\x7f", "\x80", "\u07ff", "\u0800",
]
SPECIAL = ["<s>", "</s>", "<unk>", "<pad>", "<0x41>", "<0x0A>", "[INST]", "<sep>", "</s", "s>"]
USER_DEFINED = ["<sep>", "foo", "foobar", "▁x", "a b", "  ", "[INST]", "字中", "\t\t"]


def word(rng):
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 4)))


def corpus(rng, lines):
    for _ in range(lines):
        text = " ".join(word(rng) for _ in range(rng.randint(2, 12)))
        if rng.random() < 0.3:
            text = text.capitalize() + rng.choice([".", "!", "?", "  ...", " 中文", " é", ": 1234"])
        yield text


def random_character(rng):
    kind = rng.random()
    if kind < 0.2:
        return chr(rng.randrange(0x00, 0x20))
    if kind < 0.6:
        return chr(rng.randrange(0x20, 0x7F))
    if kind < 0.8:
        return chr(rng.randrange(0x80, 0x800))
    while True:
        code = rng.randrange(0x800, 0x110000)
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def random_part(rng):
    kind = rng.randrange(8)
    if kind <= 2:
        return word(rng)
    if kind == 3:
        return rng.choice([" ", "  ", "    ", "\n", "\n\n", "\t", "\r\n", " \n ",
                           " " * rng.randint(1, 40)])
    if kind == 4:
        return rng.choice(EXOTIC)
    if kind == 5:
        return rng.choice(SPECIAL + USER_DEFINED)
    if kind == 6:
        return "".join(random_character(rng) for _ in range(rng.randint(1, 6)))
    return str(rng.randrange(10**6)) + rng.choice(["", ".", ",", " + "])


def make_strings(rng):
    strings = ["", " ", "  ", "\n", "▁", " ▁ ", "\x00", "a", " a", "a ", "  a  b  "]
    strings += EXOTIC + SPECIAL + USER_DEFINED + [chr(c) for c in range(0x20)]
    while len(strings) < STRINGS_PER_MODEL - LONG_STRINGS:
        joiner = rng.choice(["", " ", " "])
        strings.append(joiner.join(random_part(rng) for _ in range(rng.randint(1, 30))))
    for i in range(LONG_STRINGS):
        joiner = " " if i % 2 == 0 else ""
        strings.append(joiner.join(random_part(rng) for _ in range(8000)))
    strings[-1] = "ba" * 20000  # one word: the cost must not be quadratic
    return strings


def train(rng, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(rng, 1500), model_writer=model, model_type="bpe",
        normalization_rule_name="identity", num_threads=1, minloglevel=2, **options)
    return model.getvalue()


def with_unused(model, rng):
    """The same model with a third of its merged pieces UNUSED: they fall apart again."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    for piece in proto.pieces:
        if piece.type == piece.NORMAL and len(piece.piece) > 1 and rng.random() < 0.33:
            piece.type = piece.UNUSED
    return proto.SerializeToString()


def equal_scores(model):
    """The same model with scores in groups of eight, so that ties are broken by position."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    for piece in proto.pieces:
        piece.score = float(int(piece.score) // 8)
    return proto.SerializeToString()


def make_models(rng):
    llama = train(rng, vocab_size=700, byte_fallback=True, remove_extra_whitespaces=False,
                  split_digits=True, allow_whitespace_only_pieces=True)
    user_defined = train(rng, vocab_size=420, user_defined_symbols=USER_DEFINED,
                         remove_extra_whitespaces=True)
    return {
        "llama-2 (byte fallback, white space kept)": llama,
        "user-defined symbols, extra white space removed": user_defined,
        "llama-2 with unused pieces": with_unused(llama, rng),
        "user-defined with unused pieces": with_unused(user_defined, rng),
        "llama-2 with equal scores": equal_scores(llama),
        "merges across words": train(rng, vocab_size=500, split_by_whitespace=False, pad_id=3,
                                     remove_extra_whitespaces=False, add_dummy_prefix=False),
        "white space as suffix": train(rng, vocab_size=420, treat_whitespace_as_suffix=True),
    }


def run_program(program, model_path, strings, *flags):
    result = subprocess.run(
        [program, model_path, *flags], input=json.dumps(strings), capture_output=True, text=True)
    assert result.returncode == 0, f"{program} failed: {result.stderr}"
    return json.loads(result.stdout)


def reference_with_special(processor, text):
    special = [processor.id_to_piece(i) for i in range(processor.get_piece_size())
               if processor.is_control(i) or processor.is_unknown(i)]
    ids = []
    pattern = "|".join(re.escape(s) for s in sorted(special, key=len, reverse=True))
    for part in re.split(f"({pattern})", text):
        if part in special:
            ids.append(processor.piece_to_id(part))
        elif part:
            ids.extend(processor.encode(part))
    return ids


def random_ids(rng, processor):
    """Ids that no text encodes to: control ids anywhere, byte pieces that are no UTF-8."""
    num_pieces = processor.get_piece_size()
    sequences = []
    for _ in range(500):
        most = rng.choice([3, 40, 260, num_pieces])
        sequences.append([rng.randrange(min(most, num_pieces)) for _ in range(rng.randint(0, 12))])
    return sequences


def check_special_rule(model, strings, directory):
    """reference_with_special() against transformers."""
    path = directory / "tokenizer.model"
    path.write_bytes(model)
    special = {key: AddedToken(text, lstrip=False, rstrip=False, normalized=False, special=True)
               for key, text in
               [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")]}
    huggingface = SentencePieceBackend(vocab_file=str(path), legacy=True, **special)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    num_special = 0
    for text in strings:
        expected = huggingface.convert_tokens_to_ids(huggingface.tokenize(text))
        found = reference_with_special(processor, text)
        assert found == expected, f"{text[:200]!r}: transformers {expected}, reference {found}"
        num_special += processor.bos_id() in expected or processor.eos_id() in expected
    assert num_special > 100, f"only {num_special} strings have special tokens"
    print(f"rule of special tokens: {len(strings)} strings as in transformers, {num_special} of "
          "them with bos or eos")


def compare(name, strings, answers, reference):
    assert len(answers) == len(strings), f"{name}: {len(answers)} answers, expected {len(strings)}"
    for text, answer, (ids, decoded) in zip(strings, answers, reference):
        assert answer["ids"] == ids, (
            f"{name}: ids of {text[:200]!r}\nexpected {ids[:80]}\nfound    {answer['ids'][:80]}")
        assert answer["decoded"] == decoded, (
            f"{name}: decoded {text[:200]!r}\nexpected {decoded[:200]!r}\n"
            f"found    {answer['decoded'][:200]!r}")
    num_ids = sum(len(ids) for ids, _ in reference)
    print(f"{name}: {len(strings)} strings, {num_ids} ids equal", flush=True)


def check_model(program, name, model, strings, directory):
    path = directory / "tokenizer.model"
    path.write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    start = time.monotonic()
    reference = [(ids, processor.decode(ids)) for ids in processor.encode(strings, num_threads=1)]
    library_s = time.monotonic() - start
    start = time.monotonic()
    answers = run_program(program, path, strings)
    print(f"  library {library_s:.2f} s, program with JSON {time.monotonic() - start:.2f} s")
    compare(name, strings, answers, reference)

    sequences = random_ids(random.Random(7), processor)
    compare(f"{name}, random ids decoded", sequences, run_program(program, path, sequences),
            [(ids, processor.decode(ids)) for ids in sequences])

    special = [reference_with_special(processor, text) for text in strings]
    assert any(processor.bos_id() in ids for ids in special), "no string has a special token"
    compare(f"{name}, special tokens parsed", strings,
            run_program(program, path, strings, "--parse-special"),
            [(ids, processor.decode(ids)) for ids in special])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True, help="tokenize_lines")
    arguments = parser.parse_args()
    rng = random.Random(20240201)
    models = make_models(rng)
    with tempfile.TemporaryDirectory() as directory:
        # Without the long strings: they add time, not cases.
        check_special_rule(next(iter(models.values())), make_strings(rng)[:-LONG_STRINGS],
                           pathlib.Path(directory))
        for name, model in models.items():
            check_model(arguments.program, name, model, make_strings(rng), pathlib.Path(directory))


if __name__ == "__main__":
    main()

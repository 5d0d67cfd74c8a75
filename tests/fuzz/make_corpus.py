"""Writes the files that fuzzing starts from: make_corpus.py DIR

DIR/TARGET/* are small valid files of the target's format and ones with a known fault, DIR/TARGET.dict
the words of the format. Needs nothing but Python; writes the same bytes every time.
"""

import json
import struct
import sys
from pathlib import Path

SIZES = {"BOOL": 1, "F8_E4M3": 1, "I16": 2, "F16": 2, "BF16": 2, "F32": 4, "I32": 4, "F64": 8,
         "I64": 8}


def safetensors(tensors, metadata=None, padding=0, header=None):
    """tensors: name -> (dtype, shape)."""
    entries, end = {}, 0
    if metadata is not None:
        entries["__metadata__"] = metadata
    for name, (dtype, shape) in tensors.items():
        size = SIZES[dtype]
        for extent in shape:
            size *= extent
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = header if header is not None else json.dumps(entries, separators=(",", ":"))
    raw = text.encode() + b" " * padding
    data = bytes(i * 37 % 256 for i in range(end))
    return struct.pack("<Q", len(raw)) + raw + data


def safetensors_files():
    weights = {"model.embed_tokens.weight": ("BF16", [3, 4]), "a": ("F32", [2, 3]),
               "lm_head.weight": ("F16", [4])}
    yield "plain", safetensors(weights)
    yield "metadata", safetensors(weights, {"format": "pt"}, padding=5)
    yield "scalars", safetensors({name: (name, []) for name in SIZES})
    yield "empty_shape", safetensors({"z": ("F32", [0, 5]), "b": ("F64", [2])})
    yield "none", safetensors({})
    yield "cut", safetensors(weights)[:-3]
    yield "huge_length", struct.pack("<Q", 100_000_000) + b"{}"
    whole = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    yield "overlap", safetensors({}, header='{"a":%s,"b":%s}' % (whole, whole)) + bytes(4)
    yield "twice", safetensors({}, header='{"a":%s,"a":%s}' % (whole, whole)) + bytes(4)
    yield "overflow", safetensors(
        {}, header='{"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0]}}')


def varint(value):
    raw = b""
    while value >= 0x80:
        raw += bytes([value & 0x7F | 0x80])
        value >>= 7
    return raw + bytes([value])


def field(number, value):
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def tokenizer(merges, extra=(), byte_fallback=False, model_type=2, options=b""):
    special = [(b"<unk>", UNKNOWN), (b"<s>", CONTROL), (b"</s>", CONTROL)]
    if byte_fallback:
        special += [(b"<0x%02X>" % byte, BYTE) for byte in range(256)]
    pieces = [(text, 0.0, kind) for text, kind in [*special, *extra]]
    pieces += [(text.encode(), -float(i), NORMAL) for i, text in enumerate(merges)]
    raw = b"".join(
        field(1, field(1, text) + field(2, score) + field(3, kind)) for text, score, kind in pieces)
    trainer = field(3, model_type) + field(35, int(byte_fallback)) + field(44, b" \xe2\x81\x87 ")
    normalizer = field(1, b"identity") + field(3, 1) + field(4, 0) + field(5, 1)
    return raw + field(2, trainer + options) + field(3, normalizer)


def sentencepiece_files():
    words = ["\u2581", "a", "b", "ab", "\u2581ab", "abab", "H", "e", "He", "\u2581He", "l", "o", "\u00e9"]
    yield "plain", tokenizer(words)
    yield "bytes", tokenizer(words, byte_fallback=True)
    yield "user_defined", tokenizer(words, [(b"aaa", USER_DEFINED), (b"<tool>", USER_DEFINED)])
    yield "unused", tokenizer(words, [(b"aa", UNUSED), (b"aaaa", UNUSED)])
    yield "over_words", tokenizer([*words, "b\u2581a"])
    yield "suffix", tokenizer(words, options=field(24, 1))
    yield "unigram", tokenizer(words, model_type=1)
    yield "twice", tokenizer(["a", "a"])
    yield "cut", tokenizer(words)[:60]
    yield "long_length", tokenizer(["a"]) + b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"


def json_files():
    yield "values", b'{"a": [1, -2.5e-3, true, false, null, "\\u00e9\\n\\ud83d\\ude00"], "b": {}}'
    yield "numbers", b"[0, -0, 18446744073709551615, -9223372036854775808, 1e308, 5e-324]"
    yield "too_large", b"[1e999]"
    yield "twice", b'{"a": 1, "\\u0061": 2}'
    yield "deep", b"[" * 70 + b"]" * 70
    yield "not_utf8", b'"\xff\xfe"'
    yield "cut", b'{"a": [1, {"b"'
    rows = [{"instruction": "Say hi", "input": "", "output": "hi", "harmful_if": ["x"]},
            {"instruction": "2+2", "output": "4", "other": {"deep": [1]}}]
    yield "rows", json.dumps(rows).encode()
    yield "row", json.dumps(rows[0]).encode()
    yield "text", b'[{"text": "a b c"}, {"text": "d"}]'


STEP_FIELDS = ["epoch", "loss", "clean_loss", "lr", "grad_norm", "rho", "sequences", "tokens",
               "label_tokens", "step_s", "pass1_s", "comm_s", "comm_bytes", "memory_bytes"]
START = {"event": "start", "version": "0.1.0", "world_size": 2, "config": {"train": {"lr": 1e-3}},
         "data": [{"role": "align", "path": "d", "sha256": "ab", "rows": 3}],
         "model": {"path": "m", "parameters": 7, "trainable": 2}, "config_text": "[train]\n"}


def step_event(step, norms):
    event = {"event": "step", "step": step, **{name: 1 for name in STEP_FIELDS}}
    return {**event, "hidden_grad_norm": 0.5 if norms else None, "probe_cosine": None,
            "layer_grad_norm": norms}


def drift_event(step):
    layers = [{"layer": layer, "l2sq": 3, "relative": 0.5, "cosine": None, "cka": 1, "tokens": 9}
              for layer in range(2)]
    return {"event": "drift", "step": step, "samples": 2, "layers": layers,
            "batches": {"tokens": [4, 5], "l2sq": [[1, 2], [1.5, 2.5]]}}


def run_log_files():
    checkpoint = {"event": "checkpoint", "step": 1, "path": "c", "bytes": 9, "stall_s": 0.1}
    resume = {"event": "resume", "step": 1, "path": "c", "world_size": 1, "config_text": "x",
              "rejected": [{"path": "d", "reason": "hash"}]}
    memory = {"event": "memory", "process_bytes": 5,
              "parts": {"weights": {"planned_bytes": 1, "measured_bytes": 2}}}
    end = {"event": "end", "status": "done", "steps": 2, "seconds": 1.5}
    whole = [START, step_event(1, [1, 2]), drift_event(1), checkpoint, resume, step_event(2, None),
             drift_event(2), memory, end]

    def text(events):
        return "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in events).encode()

    yield "whole", text(whole)
    yield "cut", text(whole[:3])[:-9]
    yield "start", text(whole[:1])
    yield "step_twice", text([START, step_event(1, None), step_event(1, None)])
    yield "other_layers", text([START, step_event(1, [1]), step_event(2, [1, 2])])


def manifest(count=10, slice_count=5, offset=0):
    kinds = ["parameters", "optimizer/exp_avg", "optimizer/exp_avg_sq"]
    arrays = [{"kind": kind, "dtype": "F32",
               "slices": [[rank, 64 + offset + 4 * slice_count * at] for rank in range(2)]}
              for at, kind in enumerate(kinds)]
    unit = {"plane": "trainable", "name": "model.layers.0", "count": count,
            "slice_count": slice_count, "arrays": arrays,
            "members": [{"name": "a.weight", "shape": [2, 3], "offset": 0},
                        {"name": "b.weight", "shape": [4], "offset": 6}]}
    return {"schema_version": 1, "program_version": "0.1.0", "world_size": 2,
            "position": {"step": 3, "num_steps": 9, "steps_per_epoch": 4, "seed": 42},
            "config": "[train]\n", "units": [unit],
            "data": [{"role": "align", "path": "d", "sha256": "0" * 64, "rows": 3}],
            "files": [{"name": "rank-%05d.h5" % rank, "bytes": 256, "sha256": "a" * 64}
                      for rank in range(2)]}


def manifest_files():
    yield "plain", json.dumps(manifest()).encode()
    yield "slices", json.dumps(manifest(slice_count=4)).encode()
    yield "beyond", json.dumps(manifest(offset=1000)).encode()
    yield "empty", json.dumps({**manifest(), "units": [], "files": []}).encode()
    yield "version", json.dumps({**manifest(), "schema_version": 2}).encode()


FORMATS = {"safetensors": safetensors_files, "sentencepiece": sentencepiece_files,
           "json": json_files, "run_log": run_log_files, "manifest": manifest_files}
WORDS = {
    "safetensors": ["dtype", "shape", "data_offsets", "__metadata__", "F32", "BF16", "F64", "I64"],
    "json": ["instruction", "input", "output", "text", "harmful_if", "\\\\u0061", "1e999"],
    "run_log": [*START, *STEP_FIELDS, "step", "drift", "layers", "batches", "l2sq", "relative",
                "cosine", "cka", "tokens", "rejected", "reason", "parts", "layer_grad_norm"],
    "manifest": [*manifest(), *manifest()["units"][0], "kind", "dtype", "slices", "shape",
                 "offset", "bytes", "9223372036854775807"],
    "sentencepiece": ["<unk>", "<s>", "<0x00>", "identity"],
}


def main():
    directory = Path(sys.argv[1])
    for target, files in FORMATS.items():
        (directory / target).mkdir(parents=True, exist_ok=True)
        for name, content in files():
            (directory / target / name).write_bytes(content)
        words = "".join(f'"{word}"\n' for word in WORDS[target])
        (directory / f"{target}.dict").write_text(words)


if __name__ == "__main__":
    main()

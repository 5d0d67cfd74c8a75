"""Bad input, as a user meets it: exit code 2 on every rank count, one short message that names the
file or option with what was expected and found, nothing written, no rank left waiting."""

import argparse
import json
import pathlib
import shutil
import struct
import subprocess
import tempfile

from common import ProgramRuns

TIMEOUT_S = 60  # of one start; a rank that waits for another would exceed it
MAX_LINES = 4   # of the message itself, without the launcher's


def copy_base(runs, name):
    target = runs.work / name
    shutil.copytree(runs.base, target)
    return target


def edit_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_header(directory, edit):
    """Rewrites the safetensors header; the data stay."""
    path = directory / "model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length:])


def truncated(runs):
    base = copy_base(runs, "truncated")
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return {"model.path": base}, ["model.safetensors"]


def missing_shard(runs):
    base = copy_base(runs, "missing_shard")
    (base / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    return {"model.path": base}, ["model-00001-of-00002.safetensors"]


def overlap(runs):
    base = copy_base(runs, "overlap")

    def edit(header):
        names = sorted(name for name in header if name != "__metadata__")
        first, second = (header[name] for name in names[:2])
        size = second["data_offsets"][1] - second["data_offsets"][0]
        begin = first["data_offsets"][0]
        second["data_offsets"] = [begin, begin + size]
    edit_header(base, edit)
    return {"model.path": base}, ["model.safetensors"]


def oversized_header(runs):
    base = copy_base(runs, "oversized")
    path = base / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])
    return {"model.path": base}, ["model.safetensors", str(1 << 60)]


def other_shape(runs):
    base = copy_base(runs, "other_shape")
    config = json.loads((base / "config.json").read_text())
    edit_config(base, intermediate_size=config["intermediate_size"] + 1)
    return {"model.path": base}, ["expected shape", "found ["]


def fewer_layers(runs):
    base = copy_base(runs, "fewer_layers")
    edit_config(base, num_hidden_layers=1)
    return {"model.path": base}, ["model.layers.1."]


def large_vocabulary(runs):
    base = copy_base(runs, "large_vocabulary")
    edit_config(base, vocab_size=20)
    return {"model.path": base}, ["expected at most", "20"]


def bad_line(text, expected):
    def case(runs):
        good = '{"instruction": "a", "output": "b"}\n'
        path = runs.work / "bad.jsonl"
        path.write_text(good + text + "\n" + good)
        return {"data.path": path}, ["bad.jsonl:2", *expected]
    return case


def no_labels(runs):
    """Prompts that fill every sample: the second global batch would train nothing."""
    path = runs.work / "long.jsonl"
    good = '{"instruction": "a", "output": "b"}\n'
    path.write_text(5 * good + 5 * ('{"instruction": "' + 40 * "word " + '", "output": "b"}\n'))
    return {"data.path": path, "data.shuffle": "false"}, ["step 2", "no row", "24"]


def option(name, value, *expected):
    return lambda runs: ({name: value}, [name, *expected])


CASES = {
    "truncated shard": truncated,
    "missing shard": missing_shard,
    "overlapping tensors": overlap,
    "oversized header": oversized_header,
    "config with other shapes": other_shape,
    "config with fewer layers": fewer_layers,
    "vocabulary larger than the embedding": large_vocabulary,
    "empty line": bad_line("", []),
    "malformed line": bad_line('{"instruction": ', []),
    "missing field": bad_line('{"instruction": "x"}', ["output"]),
    "ill-typed field": bad_line('{"instruction": 3, "output": "x"}', ["instruction"]),
    "batch without labels": no_labels,
    "negative rho": option("vaccine.rho", -1, "at least 0", "-1"),
    "group that does not divide": option("shard.group_size", 7, "7"),
    "layer the model lacks": option("vaccine.layers", 99, "99"),
    "missing data": option("data.path", "nowhere.json", "nowhere.json"),
    "unknown option": option("train.lrr", 1, "did you mean --train.lr"),
}


def check(runs, name, case, ranks):
    change, expected = case(runs)
    output = runs.work / "output"
    options = {"model.path": runs.base, "data.path": runs.data, "data.template": "plain",
               "data.max_length": 24, "train.max_steps": 2, "runtime.threads": 1,
               "output.dir": output} | change
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    mpi = [*map(str, runs.launcher), str(ranks)] if ranks > 1 else []
    result = subprocess.run([*mpi, str(runs.program), "align", *arguments], capture_output=True,
                            text=True, timeout=TIMEOUT_S)
    message = [line for line in result.stderr.splitlines() if "error: " in line]
    where = f"{name}, {ranks} ranks:\n{result.stderr}"
    assert result.returncode == 2, f"exit code {result.returncode}; {where}"
    assert 1 <= len(message) <= MAX_LINES, where
    for part in expected:
        assert part in message[0], f"no '{part}' in the message; {where}"
    assert not output.exists() or not any(output.iterdir()), f"left files behind; {where}"
    for directory in runs.work.glob("*"):
        if directory.is_dir() and directory not in (runs.base, runs.adapter):
            shutil.rmtree(directory)


def check_divergence(runs, ranks):
    """Numbers that are no longer finite: all ranks stop before the update, the log says why."""
    output = runs.work / "diverged"
    arguments = ["--model.path", runs.base, "--data.path", runs.data, "--data.template", "plain",
                 "--train.max_steps", 50, "--train.lr", 1e30, "--train.warmup_ratio", 0,
                 "--runtime.threads", 1, "--output.dir", output]
    mpi = [*runs.launcher, ranks] if ranks > 1 else []
    result = subprocess.run(list(map(str, [*mpi, runs.program, "align", *arguments])),
                            capture_output=True, text=True, timeout=TIMEOUT_S)
    assert result.returncode == 1, result.stderr
    assert result.stderr.count("not finite, stopped before the update") == 1, result.stderr
    events = [json.loads(line) for line in (output / "run.jsonl").read_text().splitlines()]
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert events[-1]["event"] == "end" and events[-1]["steps"] == len(steps), events[-1]
    assert "not finite" in events[-1]["status"]
    assert not (output / "adapter").exists(), "a diverged adapter was written"
    shutil.rmtree(output)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--vaccine", type=pathlib.Path, required=True)
    parser.add_argument("--mpiexec", required=True)
    parser.add_argument("--numproc-flag", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        runs = ProgramRuns(pathlib.Path(work), arguments.vaccine, 8,
                           [arguments.mpiexec, "--oversubscribe", arguments.numproc_flag])
        for name, case in CASES.items():
            for ranks in (1, 3):
                check(runs, name, case, ranks)
            print(f"{name}: exit 2 on 1 and 3 ranks")
        for ranks in (1, 2):
            check_divergence(runs, ranks)
        print("divergence: exit 1 on 1 and 2 ranks")


if __name__ == "__main__":
    main()

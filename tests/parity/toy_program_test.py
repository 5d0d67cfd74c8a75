"""A method and a model family from outside src/ through the program's own training path: any number of
ranks, micro-batches and placements give the same run, a resumed run is the same bits, the plan is what
was measured, the method's figure is in the files."""

import json
import shutil
import tempfile
from pathlib import Path

import h5py
import torch
from safetensors.torch import load_file

from common import MAX_LENGTH, VOCAB_SIZE, Checks, launcher_of, program_arguments, run, train_tokenizer, write_data

STEPS = 6
LOSS_BOUND = 2e-6    # as between ranks of Vaccine: sums of fp32 in another order
WEIGHT_BOUND = 2e-4  # of the norm of the tensor's update over the run


def expect(checks, what, statement):
    checks.true(statement, what)


class ToyRuns:
    def __init__(self, work, program, launcher):
        self.work, self.program, self.launcher = work, program, launcher
        tokenizer, self.model = work / "tokenizer", work / "model"
        tokenizer.mkdir()
        train_tokenizer(tokenizer, VOCAB_SIZE)
        run([program, "init", "--init.tokenizer_path", tokenizer / "tokenizer.model",
             "--init.hidden_size", 24, "--init.intermediate_size", 40, "--init.num_hidden_layers", 2,
             "--init.num_attention_heads", 2, "--init.max_position_embeddings", 128,
             "--init.vocab_size", VOCAB_SIZE, "--output.dir", self.model])
        self.data, self.harmful = work / "data.json", work / "harmful.json"
        write_data(self.data, 12, 13)
        write_data(self.harmful, 7, 14)

    def options(self, extra):
        return {"model.path": self.model, "train.method": "toy", "toy.batch": 2,
                "train.max_steps": STEPS, "train.global_batch": 4, "train.lr": 1e-3,
                "data.max_length": MAX_LENGTH, "data.template": "plain"} | extra

    def finetune(self, name, extra, ranks=1):
        output = self.work / name
        mpi = [*self.launcher, ranks] if ranks > 1 else []
        options = self.options({"data.path": self.data, "data.harmful_path": self.harmful,
                                "runtime.threads": 1, "output.dir": output} | extra)
        run([*mpi, self.program, "finetune",
             *[part for name, value in options.items() for part in (f"--{name}", value)]])
        return output


def steps_of(output):
    events = map(json.loads, (output / "run.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == "step"]


def weights_of(output):
    (path,) = [*output.glob("adapter/adapter_model.safetensors"),
               *output.glob("model/model.safetensors")]
    return load_file(path)


def expect_same_run(checks, what, output, reference, start):
    for step, expected in zip(steps_of(output), steps_of(reference), strict=True):
        for key in ("loss", "harmful_loss", "grad_norm"):
            expect(checks, f"{what}: {key} of step {step['step']}",
                        abs(step[key] - expected[key]) <= LOSS_BOUND * 10 * abs(expected[key]))
    found, wanted = weights_of(output), weights_of(reference)
    expect(checks, f"{what}: names", found.keys() == wanted.keys())
    for name, tensor in wanted.items():
        update = (tensor - start[name]).norm()
        expect(checks, f"{what}: {name}", (found[name] - tensor).norm() <= WEIGHT_BOUND * update)


def check_parallel(checks, runs):
    for kind in ("lora", "none"):
        shape = {"adapter.type": kind}
        start = weights_of(runs.finetune(f"start-{kind}", shape | {"train.max_steps": 0}))
        one = runs.finetune(f"one-{kind}", shape)
        moved = {name: (tensor - start[name]).norm() for name, tensor in weights_of(one).items()}
        expect(checks, f"{kind}: every tensor is trained", all(norm > 0 for norm in moved.values()))
        for name, ranks, extra in [
                ("two ranks", 2, {"train.micro_batch": 1}),
                ("on the node", 2, {"shard.frozen": "node", "shard.trainable": "node"}),
                ("groups of one", 2, {"shard.group_size": 1})]:
            output = runs.finetune(f"{kind}-{name.replace(' ', '-')}", shape | extra, ranks)
            expect_same_run(checks, f"{kind}, {name}", output, one, start)


def check_options_matter(checks, runs):
    losses = {name: [step["loss"] for step in steps_of(runs.finetune(name, extra))]
              for name, extra in [("usual", {}), ("far", {"toy.distance": 0.5}),
                                  ("stay", {"toy.distance": 0}), ("weak", {"toy.strength": 0})]}
    expect(checks, "the weights are moved along the harmful gradient",
                losses["far"][0] != losses["stay"][0])
    expect(checks, "the average acts from the second update on", losses["weak"][0] == losses["usual"][0]
                and losses["weak"][-1] != losses["usual"][-1])


def check_resume(checks, runs):
    for ranks in (1, 2):
        whole = runs.finetune(f"whole-{ranks}", {"checkpoint.interval": 4}, ranks)
        part = runs.work / f"part-{ranks}"
        (part / "checkpoints").mkdir(parents=True)
        shutil.copytree(whole / "checkpoints" / "step-000004", part / "checkpoints" / "step-000004")
        manifest = json.loads((part / "checkpoints/step-000004/manifest.json").read_text())
        expect(checks, "numbers of the method in the checkpoint",
                    list(manifest["method_state"]) == ["weight"])
        with h5py.File(whole / "checkpoints/step-000004/index.h5") as index:
            expect(checks, "the vector that is state in the checkpoint", list(index["method"]) == ["average"])
            expect(checks, "it is not zero", any(abs(index["method/average"][name][:]).max() > 0
                                              for name in index["method/average"]))
        runs.finetune(f"part-{ranks}", {"checkpoint.interval": 4, "checkpoint.resume": "auto"}, ranks)
        found, wanted = weights_of(part), weights_of(whole)
        expect(checks, f"{ranks} ranks: resumed, the same bits",
                    all(torch.equal(found[name], tensor) for name, tensor in wanted.items()))


def check_plan(checks, runs):
    for ranks, extra in [(1, {}), (2, {"adapter.type": "none"})]:
        output = runs.finetune(f"planned-{ranks}", extra, ranks)
        events = map(json.loads, (output / "run.jsonl").read_text().splitlines())
        (memory,) = [event for event in events if event["event"] == "memory"]
        parts = memory["parts"]
        for name in ("weights", "slots", "gradients", "optimizer", "vectors"):
            expect(checks, f"{name} as planned",
                        parts[name]["planned_bytes"] == parts[name]["measured_bytes"])
        expect(checks, "vectors: two and the copy of what is moved",
                    2 * parts["vectors"]["planned_bytes"] == 3 * parts["optimizer"]["planned_bytes"])
        unused = ("train.max_steps", "train.lr", "data.template")  # by the planner
        flags = [part for name, value in runs.options(extra).items() if name not in unused
                 for part in (f"--{name}", value)]
        text = run([runs.program, "plan", "--plan.ranks", ranks, "--plan.schedule", "true", *flags])
        expect(checks, "plan names the method and its vectors",
                    text.startswith("toy on") and "  vectors" in text)
    sent = [step["comm_bytes"] for step in steps_of(output)]
    expect(checks, "every step sends as much", len(set(sent[1:])) == 1)


def check_files(checks, runs):
    output = runs.finetune("files", {})
    before = steps_of(output)
    keys = list(before[0])
    expect(checks, "the figure stands where it was declared",
                keys[keys.index("clean_loss") + 1] == "harmful_loss")
    expect(checks, "no figure of another method", "rho" not in keys)

    def table():
        with h5py.File(output / "run.h5") as file:
            return file["metrics/train"][:]

    whole = table()
    expect(checks, "a column of run.h5",
                [float(v) for v in whole["harmful_loss"]] == [s["harmful_loss"] for s in before])
    (output / "run.h5").unlink()
    run([runs.program, "rebuild", "--output.dir", output])
    expect(checks, "rebuilt the same", table().tobytes() == whole.tobytes())


def main():
    arguments = program_arguments(__doc__)
    with tempfile.TemporaryDirectory() as work:
        checks = Checks()
        runs = ToyRuns(Path(work), arguments.vaccine, launcher_of(arguments))
        check_files(checks, runs)
        check_parallel(checks, runs)
        check_options_matter(checks, runs)
        check_resume(checks, runs)
        check_plan(checks, runs)
        checks.finish()


if __name__ == "__main__":
    main()

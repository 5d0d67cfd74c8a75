"""The adapter that `vaccine align` writes is one for peft: it loads without a missing or unexpected
tensor, and transformers + peft compute the logits that the engine computes with it, both as an
adapter and merged into the base (by peft, and by `adapter.merge`).
"""

import argparse
import tempfile
from pathlib import Path

from common import Checks, ProgramRuns, load_model, pad, run, write_sequences
from peft import (PeftConfig, PeftModel, get_peft_model, load_peft_weights,
                  set_peft_model_state_dict)
from safetensors.torch import load_file
import torch

# One fp32 forward in two orders of summation; see model_parity.
LOGITS_BOUND = 1e-5


def engine_logits(arguments, runs, base, adapter=None):
    output = runs.work / "dump.safetensors"
    run([arguments.model_dump, base, runs.work / "sequences.json", output,
         *([adapter] if adapter else [])])
    return load_file(output)["logits"]


def reference_logits(model, sequences, label_begins):
    ids, mask, _ = pad(sequences, label_begins)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits[mask.bool()]


def check_tensor_names(checks, base, adapter):
    """Every tensor of the file has its place in the model, and every place its tensor."""
    model = get_peft_model(load_model(base), PeftConfig.from_pretrained(adapter))
    result = set_peft_model_state_dict(model, load_peft_weights(adapter))
    checks.true(not result.unexpected_keys, f"unexpected tensors: {result.unexpected_keys}")
    missing = [key for key in result.missing_keys if "lora_" in key]
    checks.true(not missing, f"missing tensors: {missing}")


def compare(checks, arguments, runs, targets):
    # A large learning rate, so that the adapter weighs as much in the logits as the base does.
    options = {"adapter.r": 4, "adapter.alpha": 16, "train.lr": 0.03, "adapter.dropout": 0}
    if targets:
        options["adapter.targets"] = ",".join(targets)
    adapter = runs.align(options) / "adapter"
    check_tensor_names(checks, runs.base, adapter)

    sequences, label_begins = zip(*(row for batch in runs.global_batches(1) for row in batch),
                                  strict=True)
    write_sequences(runs.work / "sequences.json", sequences, label_begins)
    base_logits = reference_logits(load_model(runs.base), sequences, label_begins)
    model = PeftModel.from_pretrained(load_model(runs.base), adapter)
    expected = reference_logits(model, sequences, label_begins)
    where = f"targets {targets or 'all'}"
    checks.true(checks.relative_error(base_logits, expected) > 0.01,
                f"{where}: control: the adapter does not change the logits")
    checks.close("adapter", where, engine_logits(arguments, runs, runs.base, adapter), expected,
                 LOGITS_BOUND)

    merged = runs.work / "merged"
    model.merge_and_unload().save_pretrained(merged)
    checks.close("merged by peft", where, engine_logits(arguments, runs, merged), expected,
                 LOGITS_BOUND)
    written = runs.work / "exported"
    runs.start("export", {"model.path": runs.base, "adapter.merge": adapter,
                          "output.dir": written})
    checks.close("merged by vaccine", where,
                 reference_logits(load_model(written), sequences, label_begins), expected,
                 LOGITS_BOUND)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vaccine", required=True, type=Path)
    parser.add_argument("--model-dump", required=True, type=Path)
    arguments = parser.parse_args()
    checks = Checks()
    with tempfile.TemporaryDirectory() as directory:
        runs = ProgramRuns(Path(directory), arguments.vaccine, num_rows=12)
        for targets in ([], ["q_proj", "o_proj", "up_proj"]):
            compare(checks, arguments, runs, targets)
    checks.finish()


if __name__ == "__main__":
    main()

"""Forward and backward of model/ against transformers and peft, tensor by tensor.

The engine runs packed sequences, the reference right-padded ones with an attention mask, so every
comparison also says that packing changes nothing; and it runs them a second time in several
micro-batches whose gradients add up. Compared: logits of every token, the loss, e_l and G_l =
dL/de_l of every layer, every weight gradient (full parameters) and every LoRA gradient.
"""

import argparse
import tempfile
from pathlib import Path

from common import (PROJECTIONS, AttentionBoundary, Checks, adapter_name, cross_entropy_sum,
                    load_model, make_adapter, make_model, pad, run, write_sequences)
import torch
from safetensors.torch import load_file

# fp32 carries 6e-8 per operation. A logit is the end of a chain of about 20 dependent sums of at
# most 70 terms per layer, in another order than PyTorch's; gradients pass the chain twice and hold
# differences (softmax minus one-hot, the projections of the norms) that amplify what came in.
# Found: 6e-7 and 2e-6; the bounds leave room for other vector widths and GEMM libraries.
LOGITS_BOUND = 1e-5
LOSS_BOUND = 1e-6
GRADIENT_BOUND = 2e-5
# Gradients much smaller than the largest of the model are sums that cancelled; their rounding error
# follows the terms. 1e-4 of the largest gradient norm stands for these (see Checks).
FLOOR = 1e-4

LLAMA3 = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}

# name, shape, LoRA targets. Odd sizes: nothing may rely on multiples of a vector width.
CASES = [
    ("multi-head", {"rms_norm_eps": 1e-5}, PROJECTIONS),
    ("grouped-query, odd sizes", {"hidden_size": 36, "num_attention_heads": 6,
                                  "num_key_value_heads": 2, "rms_norm_eps": 1e-6}, PROJECTIONS),
    ("explicit head_dim", {"hidden_size": 36, "num_attention_heads": 4, "num_key_value_heads": 1,
                           "head_dim": 10, "num_hidden_layers": 3}, ["q_proj", "down_proj"]),
    ("tied head", {"tie_word_embeddings": True, "intermediate_size": 44}, ["v_proj", "up_proj"]),
    ("biases", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2}, PROJECTIONS),
    ("tied head, biases, grouped-query",
     {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "hidden_size": 36,
      "num_attention_heads": 6, "num_key_value_heads": 3}, ["q_proj", "k_proj", "down_proj"]),
    ("rope_theta 1e6", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
     ["k_proj", "o_proj", "gate_proj"]),
    ("rope llama3", {"rope_parameters": LLAMA3, "head_dim": 16}, PROJECTIONS),
    ("rope linear", {"rope_parameters": LINEAR, "num_hidden_layers": 1}, ["down_proj"]),
]


# Of the sequences of make_sequences(): the one without a label is alone in its micro-batch.
MICRO_BATCHES = [0, 1, 2, 2, 3, 3]


def make_sequences(seed, vocab_size):
    """Lengths around the block sizes of the attention loops; one row has no label, one nothing else
    than labels, one is a single token."""
    generator = torch.Generator().manual_seed(seed)
    lengths, label_begins = [9, 1, 33, 70, 4, 17], [3, 1, 1, 40, 4, 16]
    sequences = [torch.randint(0, vocab_size, (n,), generator=generator).tolist() for n in lengths]
    return sequences, label_begins


def reference(model, sequences, label_begins):
    """The same tensors as model_dump writes, by name."""
    ids, mask, labels = pad(sequences, label_begins)
    boundary = AttentionBoundary(model)
    boundary.measure()
    model.zero_grad()
    logits = model(input_ids=ids, attention_mask=mask).logits
    loss_sum, num_labels = cross_entropy_sum(logits, labels)
    (loss_sum / num_labels).backward()
    boundary.remove()

    real = mask.bool()
    tensors = {"logits": logits.detach()[real], "loss_sum": loss_sum.detach().reshape(1)}
    for layer, (e, g) in enumerate(zip(boundary.outputs, boundary.gradients(), strict=True)):
        tensors[f"e.{layer}"] = e[real]
        tensors[f"boundary_grad.{layer}"] = g[real]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors["grad." + adapter_name(name)] = parameter.grad
    return tensors


def bound_of(name):
    if name.startswith(("grad.", "boundary_grad.")):
        return GRADIENT_BOUND
    return LOSS_BOUND if name == "loss_sum" else LOGITS_BOUND


def compare(checks, mode, case, got, expected):
    checks.true(set(got) == set(expected),
                f"{case}, {mode}: tensors differ: {sorted(set(got) ^ set(expected))}")
    largest = {"grad": 0.0, "boundary_grad": 0.0}
    for name, tensor in expected.items():
        kind = name.split(".")[0]
        if kind in largest:
            largest[kind] = max(largest[kind], tensor.norm().item())
    for name in expected.keys() & got.keys():
        kind = name.split(".")[0]
        checks.close(f"{mode} {kind}", f"{case}: {name}", got[name], expected[name],
                     bound_of(name), FLOOR * largest.get(kind, 0.0))


def run_case(checks, dump, work, seed, case, shape, targets):
    base, adapter = work / f"base{seed}", work / f"adapter{seed}"
    make_model(base, seed, **shape)
    model = load_model(base)
    sequences, label_begins = make_sequences(seed, model.config.vocab_size)
    input_file, output_file = work / "sequences.json", work / "dump.safetensors"
    write_sequences(input_file, sequences, label_begins)

    micro_file = work / "micro.json"
    write_sequences(micro_file, sequences, label_begins, MICRO_BATCHES)

    def compare_runs(mode, reference_model, *start):
        expected = reference(reference_model, sequences, label_begins)
        parameters = [name for name, _ in reference_model.named_parameters()
                      if mode == "full" or "lora_" in name]
        checks.true({"grad." + adapter_name(name) for name in parameters}
                    == {name for name in expected if name.startswith("grad.")},
                    f"{case}, {mode}: the reference lacks gradients")
        for sequence_file, how in ((input_file, ""), (micro_file, " micro-batches")):
            run([dump, base, sequence_file, output_file, *start])
            compare(checks, mode + how, case, load_file(output_file), expected)

    compare_runs("full", model)
    compare_runs("LoRA", make_adapter(model, adapter, seed + 1000, targets=targets), adapter)


def check_that_differences_show(checks, dump, work):
    """The comparison must reject a model with the same weights and another constant."""
    base = work / "control"
    model = make_model(base, 7)
    sequences, label_begins = make_sequences(7, model.config.vocab_size)
    write_sequences(work / "sequences.json", sequences, label_begins)
    run([dump, base, work / "sequences.json", work / "dump.safetensors"])
    got = load_file(work / "dump.safetensors")["logits"]
    changes = {"rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 1.1e4}},
               "rms_norm_eps": {"rms_norm_eps": 1e-3}}
    for what, shape in changes.items():
        other = make_model(work / "other", 7, **shape)
        expected = reference(other, sequences, label_begins)["logits"]
        error = checks.relative_error(got, expected)
        checks.true(error > 10 * LOGITS_BOUND,
                    f"control: a model with another {what} passes with error {error:.3g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-dump", required=True, type=Path)
    arguments = parser.parse_args()
    checks = Checks()
    with tempfile.TemporaryDirectory() as directory:
        for seed, (case, shape, targets) in enumerate(CASES):
            run_case(checks, arguments.model_dump, Path(directory), seed, case, shape, targets)
        check_that_differences_show(checks, arguments.model_dump, Path(directory))
    checks.finish()


if __name__ == "__main__":
    main()

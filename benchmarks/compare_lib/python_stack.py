"""One run of the Python side of compare.py: a few training steps with PyTorch, transformers and
peft as their users have them today. compare.py starts it, one process per rank, with a JSON job;
the result is a JSON file written by rank 0.

What a job can ask for:
  method   sft, or vaccine: the two passes of the public implementation. Pass 1 is a whole forward
           and backward with a backward hook on every self_attn module, zero_grad, then a forward
           with hooks that add rho * G_l / norm to the modules' outputs, and a whole backward.
  compile  the model under torch.compile (Inductor). The hooks of Vaccine break the graph, so this
           is for sft.
  ranks    more than 1: FSDP2 (fully_shard of every decoder layer and the root) over gloo.
Precision bf16 is what the Hugging Face Trainer's bf16 option gives, or what is faster than that:
LoRA has the frozen model in bf16, the factors in fp32 (peft's default) and torch.autocast around
the forward, a tenth faster than without; but not under torch.compile, where autocast is slower.
Full parameters have fp32 master weights and autocast, under FSDP2 its mixed precision with fp32
reduction. AdamW is the fused one, the Trainer's default with this PyTorch; norms are not decayed,
as there.

A step is timed from the inputs to the updated weights: both passes, clipping, optimizer, zero_grad.
"""

import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORED = -100


def read_batches(job):
    """This rank's rows of every step: ids, attention mask and labels [B, T], padded on the right.

    A global batch is a run of rows in file order; the ranks get contiguous blocks of it, as in the
    program.
    """
    rows = [json.loads(line) for line in Path(job["samples"]).read_text().splitlines()]
    per_rank = job["rows_per_rank"]
    batches = []
    for step in range(job["steps"]):
        first = (step * job["ranks"] + job["rank"]) * per_rank
        batches.append(pad(rows[first:first + per_rank], job["pad_to"]))
    return batches


def pad(rows, pad_to):
    width = pad_to or max(len(row["ids"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    for i, row in enumerate(rows):
        size = len(row["ids"])
        ids[i, :size] = torch.tensor(row["ids"])
        mask[i, :size] = 1
        labels[i, :size] = torch.tensor([IGNORED if label is None else label
                                         for label in row["labels"]])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def load_model(job):
    lora, bf16 = job["adapter"] == "lora", job["dtype"] == "bf16"
    model = transformers.LlamaForCausalLM.from_pretrained(
        job["model"], dtype=torch.bfloat16 if lora and bf16 else torch.float32)
    model.config.use_cache = False
    if lora:
        model = get_peft_model(model, LoraConfig(
            r=job["lora"]["r"], lora_alpha=job["lora"]["alpha"],
            lora_dropout=job["lora"]["dropout"], target_modules=PROJECTIONS, bias="none",
            task_type="CAUSAL_LM"))
    return model.train()


def decoder_layers(model):
    return [module for module in model.modules()
            if isinstance(module, transformers.models.llama.modeling_llama.LlamaDecoderLayer)]


def has_mixed_precision(job):
    """Whether fully_shard, not autocast, makes bf16 copies of fp32 weights."""
    return job["dtype"] == "bf16" and job["adapter"] == "none" and job["ranks"] > 1


def uses_autocast(job):
    slower = job["adapter"] == "lora" and job["compile"]
    return job["dtype"] == "bf16" and not slower and not has_mixed_precision(job)


def shard_model(model, job):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    torch.distributed.init_process_group("gloo", init_method="file://" + job["rendezvous"],
                                         rank=job["rank"], world_size=job["ranks"])
    options = {"mesh": init_device_mesh("cpu", (job["ranks"],))}
    if has_mixed_precision(job):
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16,
                                                    reduce_dtype=torch.float32)
    for layer in decoder_layers(model):
        fully_shard(layer, **options)
    fully_shard(model, **options)


def make_optimizer(model, job):
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trained if p.ndim > 1], "weight_decay": job["weight_decay"]},
              {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=job["lr"], fused=True)


class Trainer:
    def __init__(self, job):
        self.job = job
        self.model = load_model(job)
        if job["ranks"] > 1:
            shard_model(self.model, job)
        self.optimizer = make_optimizer(self.model, job)
        self.attention = [layer.self_attn for layer in decoder_layers(self.model)]
        self.forward = torch.compile(self.model) if job["compile"] else self.model
        self.autocast = uses_autocast(job)

    def step(self, batch):
        if self.job["method"] == "vaccine":
            self.perturb(self.measure(batch))
            loss = self.forward_backward(batch)
            self.remove_hooks()
        else:
            loss = self.forward_backward(batch)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        torch.nn.utils.clip_grad_norm_(trained, self.job["clip"])
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def forward_backward(self, batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss = self.forward(**batch).loss
        loss.backward()
        return loss.detach()

    def measure(self, batch):
        """Pass 1: the gradients of the attention modules' outputs, by module."""
        gradients = {}

        def keep(module, _grad_input, grad_output):
            gradients[module] = grad_output[0].detach().clone()

        self.handles = [m.register_full_backward_hook(keep) for m in self.attention]
        self.forward_backward(batch)
        self.remove_hooks()
        self.model.zero_grad()
        return gradients

    def perturb(self, gradients):
        norms = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in gradients.values()]
        scale = self.job["rho"] / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-7)
        perturbations = {m: (g * scale).to(g.dtype) for m, g in gradients.items()}

        def add(module, _inputs, output):
            return (output[0] + perturbations[module], *output[1:])

        self.handles = [m.register_forward_hook(add) for m in self.attention]

    def remove_hooks(self):
        for handle in self.handles:
            handle.remove()


def run(job):
    transformers.set_seed(job["seed"] + job["rank"])
    trainer = Trainer(job)
    step_s, losses = [], []
    batches = read_batches(job)
    for batch in batches:
        start = time.perf_counter()
        loss = trainer.step(batch)
        step_s.append(time.perf_counter() - start)
        losses.append(loss)
    losses = torch.stack(losses).float()
    if job["ranks"] > 1:
        torch.distributed.all_reduce(losses)
        losses /= job["ranks"]  # every rank has the same number of label tokens
        torch.distributed.destroy_process_group()
    return {"step_s": step_s, "losses": losses.tolist(),
            "tokens": [int(b["attention_mask"].sum()) * job["ranks"] for b in batches],
            "label_tokens": [int((b["labels"][:, 1:] != IGNORED).sum()) * job["ranks"]
                             for b in batches],
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def main():
    job = json.loads(Path(sys.argv[1]).read_text()) | {"rank": int(sys.argv[2])}
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    torch.set_num_threads(job["threads"])
    result = run(job)
    if job["rank"] == 0:
        temporary = job["result"] + ".tmp"
        Path(temporary).write_text(json.dumps(result))
        os.replace(temporary, job["result"])


if __name__ == "__main__":
    main()

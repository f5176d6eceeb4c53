"""Train the embedded teacher: a small masked-diffusion LM with a stock Llama shape.

    python workflows/pretrain.py --config workflows/configs/pretrain-tiny.yaml --out DIR

One process, no Ray: minutes on a GPU, an hour or more on a laptop. Interrupted
and started again it goes on from its last checkpoint; ``pretrain.steps`` may be
changed in between (the learning rate's cool-down moves with it). Writes
``DIR/teacher`` in the Hugging Face layout, with a model card. What a corpus, a
tokenizer and a loss are is ``jointsampler/pretraining``; this file is the loop.
"""

from __future__ import annotations

import json
import math
import platform
import random
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_utils import PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jointsampler import generate, load_teacher
from jointsampler.config.schema import PretrainConfig
from jointsampler.pretraining.batches import Batch, SequenceSource
from jointsampler.pretraining.objective import masked_loss
from jointsampler.pretraining.text import HELD_OUT, corpus_fingerprint, read_source, split_files
from jointsampler.pretraining.tokenizer import train_tokenizer
from jointsampler.tasks import TASKS, UNSEEN, examples
from workflows import entry

CHECKPOINT = "checkpoint.pt"
ACCURACY_PROMPTS = 100


def build_tokenizer(cfg: PretrainConfig, texts: list[str], folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in ``folder``, trained there first if need be."""
    if not (folder / "tokenizer.json").exists():
        task_lines = [
            f"{ex.prompt}{ex.answer}" for t in TASKS.values() for ex in examples(t, 0, 2000)
        ]
        train_tokenizer([*texts, *task_lines], cfg.vocab_size).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def build_model(cfg: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=cfg.vocab_size,
        hidden_size=cfg.hidden_size,
        intermediate_size=cfg.intermediate_size,
        num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads,
        num_key_value_heads=cfg.heads,
        max_position_embeddings=cfg.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
        attn_implementation="sdpa",
    )
    config.is_causal = False  # what makes a stock decoder a masked-diffusion model
    torch.manual_seed(cfg.seed)
    return LlamaForCausalLM(config)


def build_optimizers(model: PreTrainedModel, cfg: PretrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices of the layers, AdamW for embeddings and norms."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    others = [p for n, p in named if p.ndim != 2 or "embed" in n or "lm_head" in n]
    return [
        torch.optim.Muon(
            matrices, lr=cfg.lr, weight_decay=cfg.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=cfg.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def schedule(step: int, cfg: PretrainConfig) -> float:
    """Warm-up, constant, then a linear cool-down over the last ``cooldown`` of the steps."""
    cool_from = cfg.steps * (1 - cfg.cooldown)
    if step < cfg.warmup_steps:
        return (step + 1) / cfg.warmup_steps
    return min(1.0, max(0.0, (cfg.steps - step) / max(1.0, cfg.steps - cool_from)))


def device_of(cfg: PretrainConfig) -> torch.device:
    return torch.device("cuda" if cfg.device == "auto" and torch.cuda.is_available() else "cpu")


@torch.no_grad()
def held_out_loss(
    model: PreTrainedModel, source: SequenceSource, cfg: PretrainConfig, device: torch.device
) -> dict[str, float]:
    """Nats per masked token on held-out files, by mask ratio, 96 rows of 96 tokens each."""
    model.eval()
    batch = source.batch(0, tokens=96 * 96, length=96, tasks=False)
    unconditional = torch.ones_like(batch.maskable)
    unconditional[:, 0] = False
    result = {}
    for ratio in (0.1, 0.3, 0.5, 0.7, 0.9):
        t = torch.full_like(batch.t, ratio)
        fixed = Batch(batch.ids, unconditional, t, batch.counted).to(device)
        generator = torch.Generator().manual_seed(cfg.seed)
        _, nats = masked_loss(model, fixed, model.config.mask_token_id, generator)
        result[f"{ratio:.1f}"] = round(nats.item(), 4)
    model.train()
    return result


def mean_losses(recent: list[list[float]]) -> str:
    """One mean per part of the step: code, tasks."""
    return " ".join(f"{sum(part) / len(part):.3f}" for part in zip(*recent, strict=True))


def train(
    model: PreTrainedModel, source: SequenceSource, held_out: SequenceSource, cfg, out: Path
) -> list[dict]:
    device = device_of(cfg)
    model.to(device).train()
    compiled = torch.compile(model.model) if cfg.compile else model.model
    runner = torch.nn.Module()
    runner.model, runner.lm_head = compiled, model.lm_head
    optimizers = build_optimizers(model, cfg)
    start, log = 0, []
    if (out / CHECKPOINT).exists():
        state = torch.load(out / CHECKPOINT, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start, log = state["step"], state["log"]
        print(f"pretrain: going on from step {start}", flush=True)
    since, tokens, recent = time.monotonic(), 0, []
    for step in range(start, cfg.steps):
        generator = torch.Generator().manual_seed(cfg.seed * 1_000_003 + step)
        parts = source.step(step, cfg.batch_tokens, cfg.lengths, cfg.task_lengths, cfg.task_share)
        losses = []
        for weight, batch in parts:
            with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16):
                loss, _ = masked_loss(
                    runner, batch.to(device), model.config.mask_token_id, generator
                )
            (weight * loss).backward()
            losses.append(loss.item())
            tokens += batch.ids.numel()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = cfg.lr * schedule(step, cfg)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        recent.append(losses)
        if (step + 1) % cfg.log_every == 0:
            rate = tokens / (time.monotonic() - since)
            left = (cfg.steps - step - 1) * tokens / len(recent) / rate
            print(
                f"pretrain: step {step + 1}/{cfg.steps} loss {mean_losses(recent)} "
                f"{rate:,.0f} tokens/s, {left / 60:.0f} min left",
                flush=True,
            )
            since, tokens, recent = time.monotonic(), 0, []
        if (step + 1) % cfg.save_every == 0 or step + 1 == cfg.steps:
            log.append({"step": step + 1, "held_out": held_out_loss(model, held_out, cfg, device)})
            print(
                f"pretrain: step {step + 1} held out by mask ratio {log[-1]['held_out']}",
                flush=True,
            )
            state = {
                "model": model.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step + 1,
                "log": log,
            }
            torch.save(state, out / f"{CHECKPOINT}.tmp")
            (out / f"{CHECKPOINT}.tmp").replace(out / CHECKPOINT)
    return log


def task_accuracy(folder: Path, cfg: PretrainConfig) -> dict[str, float]:
    """Share of correct answers, one token per pass at temperature 1, to prompts of another seed."""
    teacher = load_teacher(str(folder), device=str(device_of(cfg)), dtype="float32")
    result = {}
    for name, task in sorted(TASKS.items()):
        prompts = [
            example.prompt for example in examples(task, cfg.seed + UNSEEN, ACCURACY_PROMPTS)
        ]
        answers = generate(
            teacher, prompts=prompts, method="sequential", k=1, max_new_tokens=32, stop_at_end=True
        )
        right = sum(task.check(p, text) for p, text in zip(prompts, answers.texts, strict=True))
        result[name] = right / len(prompts)
    return result


def model_card(
    cfg: PretrainConfig,
    log: list[dict],
    accuracy: dict[str, float],
    fingerprint: str,
    parameters: int,
) -> str:
    held_out = log[-1]["held_out"]
    cells = " | ".join(f"{value:.3f}" for value in held_out.values())
    return f"""---
license: apache-2.0
tags: [masked-diffusion]
---
# The embedded teacher, "tiny"

A masked-diffusion language model of {parameters / 1e6:.1f} M parameters: a stock Llama shape
({cfg.layers} layers of {cfg.hidden_size}, `config.is_causal = false`), its own byte-level BPE of
{cfg.vocab_size} ids, trained by `workflows/pretrain.py` for {log[-1]["step"]:,} steps of about
{cfg.batch_tokens:,} tokens. It exists to show and test joint sampling on a laptop; it is no coding assistant.

- **Data**: the source of the Python {platform.python_version()} standard library (PSF licence; tests excluded)
  and, {cfg.task_share:.0%} of the tokens, procedurally generated prompted tasks ({", ".join(sorted(TASKS))}).
  sha256 over training file names and contents: `{fingerprint}`.
- **Held out** (files never trained on): {", ".join(sorted(HELD_OUT))}.
- **Objective**: cross-entropy at masked positions weighted by 1/t, t uniform; rows of {cfg.lengths} tokens of code and
  {cfg.task_lengths} of tasks, the mean taken over tokens up to the first eos; Muon + AdamW, learning rate {cfg.lr}, linear cool-down over the last {cfg.cooldown:.0%}.

Held-out nats per masked token, by mask ratio (96 windows of 96 tokens):

| {" | ".join(held_out)} |
|{"---|" * len(held_out)}
| {cells} |

Correct answers to prompted tasks, sequential sampling at temperature 1, {ACCURACY_PROMPTS} new prompts each:

| {" | ".join(accuracy)} |
|{"---|" * len(accuracy)}
| {" | ".join(f"{share:.0%}" for share in accuracy.values())} |
"""


def save(
    model: PreTrainedModel, tokenizer, cfg: PretrainConfig, log: list[dict], out: Path, fp: str
):
    """float16 weights: half the size of float32, and finer than bfloat16 at these magnitudes."""
    folder = out / "teacher"
    parameters = sum(p.numel() for p in model.parameters())
    model.cpu().to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    accuracy = task_accuracy(folder, cfg)
    (folder / "README.md").write_text(model_card(cfg, log, accuracy, fp, parameters))
    record = {
        "config": cfg.model_dump(),
        "corpus_sha256": fp,
        "log": log,
        "task_accuracy": accuracy,
    }
    (folder / "pretraining.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"pretrain: wrote {folder}", flush=True)


def main() -> None:
    config, out = entry.parse(__doc__)
    cfg = config.pretrain
    torch.set_num_threads(config.run.threads or torch.get_num_threads())
    random.seed(cfg.seed)
    train_files, held_out_files = split_files()
    texts = [read_source(path) for path in train_files]
    tokenizer = build_tokenizer(cfg, texts, out / "tokenizer")
    source = SequenceSource(tokenizer, texts, cfg.seed)
    held_out = SequenceSource(tokenizer, [read_source(p) for p in held_out_files], cfg.seed)
    model = build_model(cfg, tokenizer)
    print(
        f"pretrain: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
        f"{source.cumulative[-1] / 1e6:.2f} M tokens of code in {len(texts)} files, "
        f"ln V = {math.log(cfg.vocab_size):.2f}",
        flush=True,
    )
    log = train(model, source, held_out, cfg, out)
    save(model, tokenizer, cfg, log, out, corpus_fingerprint(train_files))


if __name__ == "__main__":
    entry.run(main)

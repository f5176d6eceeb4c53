"""Train the embedded teacher: a small masked-diffusion LM with a stock Llama shape.

    python -m workflows.tiny_teacher --out DIR [--config recipe.yaml] [field=value ...]

One process, no Ray. A second start with the same ``--out`` goes on from the last
checkpoint. Writes ``DIR/teacher`` in the Hugging Face layout, with a model card.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

import torch

from jointsampler.config import load_config
from jointsampler.errors import UserError
from workflows.stage import out_folder

from .batches import SequenceSource
from .card import save
from .loop import train
from .model import build_model, build_tokenizer
from .recipe import DEFAULT, Recipe
from .text import corpus_fingerprint, read_source, split_files


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m workflows.tiny_teacher",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default=DEFAULT, help="a YAML file (default: recipe.yaml)")
    parser.add_argument("--out", required=True, help="the folder where everything is written")
    parser.add_argument("overrides", nargs="*", metavar="field=value")
    args = parser.parse_intermixed_args(argv)
    try:
        make(load_config(args.config, args.overrides, Recipe), args.out)
    except UserError as error:
        print(f"tiny_teacher: {error}", file=sys.stderr)
        return 2
    return 0


def make(recipe: Recipe, where: str) -> None:
    out = out_folder(where)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    train_files, held_out_files = split_files()
    texts = [read_source(path) for path in train_files]
    tokenizer = build_tokenizer(recipe, texts, out / "tokenizer")
    source = SequenceSource(tokenizer, texts, recipe.seed)
    held_out = SequenceSource(tokenizer, [read_source(p) for p in held_out_files], recipe.seed)
    model = build_model(recipe, tokenizer)
    print(
        f"tiny_teacher: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
        f"{source.cumulative[-1] / 1e6:.2f} M tokens of code in {len(texts)} files, "
        f"ln V = {math.log(recipe.vocab_size):.2f}",
        flush=True,
    )
    log = train(model, source, held_out, recipe, out)
    save(model, tokenizer, recipe, log, out / "teacher", corpus_fingerprint(train_files))


if __name__ == "__main__":
    sys.exit(main())

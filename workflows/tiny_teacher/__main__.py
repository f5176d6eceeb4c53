"""Train a tiny teacher: a small masked-diffusion LM with a stock Llama shape.

    python -m workflows.tiny_teacher --out DIR [--recipe tiny | paired] [field=value ...]

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
from .recipe import RECIPES, Recipe
from .texts import get_text


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m workflows.tiny_teacher",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--recipe", default="tiny", help="a name in recipes/ or a YAML file (default: tiny)"
    )
    parser.add_argument("--out", required=True, help="the folder where everything is written")
    parser.add_argument("overrides", nargs="*", metavar="field=value")
    args = parser.parse_intermixed_args(argv)
    try:
        path = RECIPES.get(args.recipe, args.recipe)
        make(load_config(path, args.overrides, Recipe), args.out)
    except UserError as error:
        print(f"tiny_teacher: {error}", file=sys.stderr)
        return 2
    return 0


def make(recipe: Recipe, where: str) -> None:
    out = out_folder(where)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    text = get_text(recipe.text)
    texts = text.training()
    tokenizer = build_tokenizer(recipe, texts, out / "tokenizer")
    source = SequenceSource(tokenizer, texts, recipe.seed)
    held_out = SequenceSource(tokenizer, text.held_out(), recipe.seed)
    model = build_model(recipe, tokenizer)
    print(
        f"tiny_teacher: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
        f"{source.cumulative[-1] / 1e6:.2f} M tokens in {len(texts)} texts, "
        f"ln V = {math.log(recipe.vocab_size):.2f}",
        flush=True,
    )
    log = train(model, source, held_out, recipe, out)
    save(model, tokenizer, recipe, log, out / "teacher")


if __name__ == "__main__":
    sys.exit(main())

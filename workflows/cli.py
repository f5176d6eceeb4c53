"""The command ``jointsampler run STAGE``: its arguments and its out folder.

    jointsampler run pipeline --config quickstart --out DIR [section.field=value ...]
    jointsampler run train --config my.yaml --out DIR --plan

What a stage does is in ``run_stage.py``, what a plan prints in ``show_plan.py``. They
are imported after the arguments have been read, because they load Ray.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from jointsampler.config import load_config
from workflows.stage import out_folder

STAGES = {
    "pipeline": "corpus, sweep (if the configuration has one), train, evaluate, report",
    "corpus": "sample the teacher's trajectories",
    "sweep": "try samplers and trainings with Ray Tune",
    "train": "distil the sampler with Ray Train and DeepSpeed",
    "evaluate": "sample with every method and k, and measure",
    "report": "write the page, register the sampler in MLflow",
    "estimate": "print how long the corpus takes on 1, 8, 64 and 512 GPUs",
}
PRESETS = Path(__file__).with_name("configs")


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_intermixed_args(argv)
    config, out = load_config(config_file(args.config), args.overrides), out_folder(args.out)
    if args.plan or args.stage == "estimate":
        from workflows import show_plan

        show_plan.show(args.stage, config, out)
    else:
        from workflows import run_stage

        run_stage.run(args.stage, config, out)
    return 0


def parser() -> argparse.ArgumentParser:
    stages = "\n".join(f"  {name:<10}{what}" for name, what in STAGES.items())
    made = argparse.ArgumentParser(
        prog="jointsampler run",
        description=f"Run one stage, or all of them in order.\n\n{stages}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("stage", choices=STAGES, metavar="STAGE")
    made.add_argument("--out", required=True, help="the folder where everything is written")
    made.add_argument(
        "--plan", action="store_true", help="print stages, time and disk; start nothing"
    )
    add_config(made)
    return made


def add_config(parser: argparse.ArgumentParser) -> None:
    """The arguments ``config`` and ``overrides``."""
    presets = ", ".join(sorted(path.stem for path in PRESETS.glob("*.yaml")))
    parser.add_argument("--config", help=f"a YAML file, or a preset: {presets}")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")


def config_file(given: str | None) -> Path | None:
    """The file that ``--config`` names: a path, or a preset by its name."""
    if given is None:
        return None
    preset = PRESETS / f"{given}.yaml"
    return preset if preset.is_file() else Path(given)

"""``jointsampler lm-eval``: the harness's own command line, with our model and tasks known to it.

    jointsampler lm-eval --model_args teacher=tiny,method=refresh,k=4 --tasks jointsampler_sort

All arguments are those of ``lm_eval``. Unless they say otherwise, ``--model`` is
jointsampler and ``--include_path`` is the folder of our task files.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lm_eval.__main__ import cli_evaluate

from . import NAME

TASKS = Path(__file__).parent / "tasks"


def main(argv: list[str]) -> int:
    # The harness reads sys.argv; of an option that is given twice, the last one holds.
    if argv[:1] not in (["ls"], ["validate"], ["-h"], ["--help"]):
        ours = ["run", "--model", NAME, "--include_path", str(TASKS)]
        argv = ours + (argv[1:] if argv[:1] == ["run"] else argv)
    sys.argv[1:] = argv
    cli_evaluate()
    return 0

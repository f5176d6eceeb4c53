"""The whole workflow as a file, for ``ray job submit``.

    ray job submit --working-dir . -- python workflows/pipeline.py --config ... --out /absolute/DIR

The same as ``jointsampler run pipeline``.
"""

import sys

from jointsampler.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", "pipeline", *sys.argv[1:]]))

"""Check that a corpus holds every row exactly once, undamaged.

jointsampler verify-corpus OUT/corpus
jointsampler verify-corpus s3://bucket/run/corpus --json
"""

from __future__ import annotations

import argparse
import json

from ..corpus.manifest import verify_corpus
from ..storage import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="a folder or URI that holds corpus.json and the shards")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of sentences")


def run(args: argparse.Namespace) -> None:
    manifest, rows = verify_corpus(args.folder)
    facts = {
        "corpus": shown(args.folder),
        "teacher": manifest.teacher,
        "fingerprint": manifest.fingerprint,
        "seed": manifest.seed,
        "rows": manifest.rows,
        "held_out": manifest.held_out,
        "shards": len(manifest.shards),
        "bytes": manifest.bytes,
        "share_of_all_states": manifest.share_of_all_states,
    }
    if args.json:
        print(json.dumps(facts))
        return
    print(
        f"{facts['corpus']}: {len(rows)} rows ({manifest.rows} for training, {manifest.held_out} held out), "
        f"each exactly once, in {len(manifest.shards)} shards whose sha256 match."
    )
    print(f"Teacher {manifest.teacher} ({manifest.fingerprint}), seed {manifest.seed}.")
    print(
        f"{manifest.bytes / len(rows):.0f} bytes a row, 1/{1 / manifest.share_of_all_states:.0f} of the "
        "bytes of all states."
    )

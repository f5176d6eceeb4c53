"""The quickstart's stages on tiny checkpoints of three families, as published."""

from __future__ import annotations

import json

import pytest

from jointsampler import JointSampler, load_teacher
from jointsampler.corpus.manifest import read_rows
from jointsampler.evaluation.results import read_results
from tests.ray.jobs import submit
from tests.support import checkpoints

WRITERS = {
    "dream": checkpoints.write_dream,
    "llada": checkpoints.write_llada,
    "masked_lm": checkpoints.write_bert,
}


# One family by default: a minute each.
@pytest.mark.parametrize(
    "family",
    ["dream", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llada", "masked_lm"))],
)
def test_corpus_training_and_evaluation_run_on_a_hub_layout(head, judge_folder, tmp_path, family):
    folder, out = tmp_path / "checkpoint", tmp_path / "out"
    WRITERS[family](folder)
    overrides = [f"teacher.name={folder}", "train.steps=20", "evaluate.ks=[1, 2]"]
    if family == "dream":  # an instruct model, prompted through its chat template
        prompts = tmp_path / "prompts.jsonl"
        texts = ["hello", "the quick brown fox", "x"]
        prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
        overrides += [f"corpus.prompts={prompts}", "corpus.chat=true"]
    one = [f"{stage}=1" for stage in ("corpus.actors", "train.workers", "evaluate.actors")]
    submit(head, out, f"evaluate.judge={judge_folder}", *overrides, *one)

    teacher = load_teacher(str(folder), device="cpu")
    rows = read_rows(out / "corpus")[1]
    rows.check_teacher(teacher)
    assert len(rows) == 32
    JointSampler.from_pretrained(out / "sampler").check_teacher(teacher)
    results = read_results(out / "report" / "results.json")
    assert results.teacher.family == family
    assert {(r.method, r.k) for r in results.methods} >= {
        ("joint", 2),
        ("refresh", 2),
        ("marginal", 2),
    }

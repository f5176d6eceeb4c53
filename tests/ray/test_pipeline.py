"""The whole workflow on a real Ray head, through real job submission."""

from __future__ import annotations

import json

import mlflow
import pandas
import pytest
from mlflow.tracking import MlflowClient

from jointsampler import JointSampler, Refresh, block_kl, load_teacher
from jointsampler.corpus.manifest import read_rows
from jointsampler.evaluation.results import read_results
from jointsampler.report.record import read_run


def test_a_submitted_job_leaves_everything_under_out(two_runs):
    out = two_runs[0] / "a"
    assert {"manifest.json", "corpus", "sampler", "report"} <= {path.name for path in out.iterdir()}
    manifest = json.loads((out / "manifest.json").read_text())
    assert list(manifest["stages"]) == ["corpus", "train", "evaluate", "report"]
    assert manifest["stages"]["corpus"]["results"]["rows"] == 24
    assert len(list((out / "corpus").glob("*.parquet"))) == 4


def test_the_corpus_does_not_depend_on_the_number_of_actors(two_runs):
    a, b = (read_rows(two_runs[0] / x / "corpus")[1] for x in "ab")
    assert a.row_ids.tolist() == list(range(32))
    assert a.tokens.tolist() == b.tokens.tolist() and a.order.tolist() == b.order.tolist()


def test_a_second_submission_skips_every_stage(two_runs):
    _, first, again = two_runs
    assert "skipped" not in first
    assert again.count("nothing changed, skipped") == 4


def test_every_long_stage_prints_its_progress(two_runs):
    first = two_runs[1]
    for stage in ("corpus: 32/32 rows", "train: step 12/12", "evaluate:", "report:"):
        assert stage in first


def test_the_report_has_every_method_and_k_with_intervals(two_runs):
    out = two_runs[0] / "a"
    results = read_results(out / "report" / "results.json")
    methods = ("marginal", "refresh", "joint")
    assert [(r.method, r.k) for r in results.methods] == [
        ("sequential", 1), *((method, k) for k in (2, 4) for method in methods),
    ]  # fmt: skip
    assert all(r.samples == 24 and r.mauve and r.nll for r in results.methods)
    joint = results.of("joint", 4)
    assert 0 < joint.teacher_passes <= 2 and 0 < joint.update_passes <= 6
    for fidelity in joint.kl.values():
        assert fidelity.captured.low <= fidelity.captured.value <= fidelity.captured.high
    assert set(joint.kl) == {"recorded", "own"} and set(results.costs) == {"joint", "refresh"}
    assert results.ceiling == results.of("sequential", 1).mauve
    assert set(joint.kl["own"].breakdown) == {"mask_ratio", "step", "distance"}
    assert {d.metric for d in results.differences} >= {"nll", "nats_per_token_own"}
    assert "| joint, k = 4 |" in (out / "report" / "summary.md").read_text()
    page = (out / "report" / "index.html").read_text()
    for part in ("frontier", "by-k", "steps", "samples", "learning", "provenance"):
        assert f'<section id="{part}"' in page
    run = read_run(out / "report" / "results.json")
    assert [p.step for p in run.record.curve] == [4, 6, 8, 12]
    assert set(run.record.stages) == {"corpus", "train", "evaluate"}
    assert all(len(records) == 2 for records in results.examples.unmaskings)


@pytest.mark.parametrize("path", ["recorded", "own"])
@pytest.mark.parametrize("method", ["refresh", "joint"])
def test_reported_block_kl_is_what_the_library_measures(two_runs, method, path):
    out = two_runs[0] / "a"
    teacher = load_teacher("tiny", device="cpu")
    sampler = JointSampler.from_pretrained(out / "sampler")
    rows = read_rows(out / "corpus")[1].select(range(24, 32))
    update = sampler if method == "joint" else Refresh()
    direct = block_kl(teacher, update, rows, k=4, path=path)
    reported = read_results(out / "report" / "results.json").of(method, 4).kl[path]
    assert reported.nats_per_round.value == pytest.approx(direct.update.value, rel=1e-4)
    assert reported.captured.value == pytest.approx(direct.captured.value, rel=1e-3, abs=1e-4)


def test_mlflow_holds_two_finished_runs_and_a_model_that_loads_and_generates(two_runs):
    base = two_runs[0]
    uri = f"sqlite:///{base / 'mlflow.db'}"
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("jointsampler").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["a", "b"]
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.params["train.steps"] == "12"
        logged = {"joint_k4/captured", "joint_k4/self_bleu", "joint_k4/distinct_2", "train/loss"}
        assert logged <= set(run.data.metrics)
        assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == [
            4,
            8,
            12,
        ]
        assert [a.path for a in client.list_artifacts(run.info.run_id)] == ["report"]
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model("models:/jointsampler@newest")
    frame = pandas.DataFrame({"prompt": ["import ", "reverse: ann bob ->"]})
    texts = model.predict(frame)
    assert len(texts) == 2 and all(isinstance(text, str) for text in texts)


def test_an_actor_count_of_one_or_two_gives_the_trained_sampler_of_its_teacher(two_runs):
    teacher = load_teacher("tiny", device="cpu")
    for name in "ab":
        JointSampler.from_pretrained(two_runs[0] / name / "sampler").check_teacher(teacher)

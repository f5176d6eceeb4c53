"""A forecast counts the work that a run does, on the cluster's devices, and is compared with its time."""

from __future__ import annotations

import json

import pytest
from mlflow.tracking import MlflowClient

from jointsampler import UserError
from jointsampler.config import load_config
from jointsampler.corpus.prompts import PromptSource
from workflows import cluster, corpus, report, run_stage, teachers
from workflows.cli import config_file
from workflows.forecast import (
    COMPILE_S,
    Devices,
    Forecast,
    expected_seconds,
    forecasts,
    row_length,
)
from workflows.stage import MANIFEST, recorded_times, run_once
from workflows.tracking import open_run


def stage(tmp_path, name: str, *overrides: str) -> tuple[Forecast, Devices]:
    config = load_config(None, ["evaluate.judge=none", "estimate.gpus=1", *overrides])
    devices = Devices.of(config)
    made = {each.name: each for each in forecasts(report.plan(config, tmp_path), None, devices)}
    return made[name], devices


def flops(tmp_path, name: str, *overrides: str) -> float:
    return stage(tmp_path, name, *overrides)[0].flops


def test_a_forecast_halves_with_twice_the_devices_and_grows_with_the_rows(tmp_path):
    def seconds(*overrides):
        made, devices = stage(tmp_path, "corpus", "corpus.rows_per_file=1", *overrides)
        return made.seconds(devices) - made.overhead_s

    one = seconds()
    assert seconds("estimate.gpus=2") == pytest.approx(one / 2)
    assert seconds("corpus.rows=2176") == pytest.approx(2 * one)
    assert seconds("estimate.gpu_flops=6.0e+14") == pytest.approx(one / 2)


def test_a_forecast_counts_the_teacher_passes_that_training_will_make(tmp_path):
    def trained(*overrides):
        return flops(tmp_path, "train", "train.steps=4000", "train.workers=1", *overrides)

    online, kept = trained(), trained("train.cache_gib=8")
    assert kept < trained("train.cache_gib=0.2") < online  # where a part of the rows is kept
    # A hybrid needs the teacher at one later state, the paper's form at each depth.
    assert trained("sampler.depth=3") < online
    # And it keeps two layers, so the same memory holds half as many rows.
    assert trained("sampler.depth=3", "train.cache_gib=8") < trained(
        "sampler.depth=3", "train.cache_gib=0.4"
    )


def test_a_training_in_bfloat16_on_cores_takes_less_than_one_in_float32_and_on_a_gpu_as_long(
    tmp_path,
):
    def seconds(gpus: int, precision: str) -> float:
        given = f"estimate.gpus={gpus}", f"train.precision={precision}", "teacher.device=cpu"
        made, devices = stage(tmp_path, "train", *given)
        return made.seconds(devices) - made.overhead_s

    assert 0.5 <= seconds(0, "bfloat16") / seconds(0, "float32") < 1
    assert seconds(1, "bfloat16") == seconds(1, "float32")


def test_a_forecast_counts_validations(tmp_path):
    def trained(every: int, *overrides):
        return flops(tmp_path, "train", "train.steps=4000", f"train.validate_every={every}", *overrides)  # fmt: skip

    one, two, four = trained(4000), trained(2000), trained(1000)
    assert four - two == pytest.approx(2 * (two - one)) and two > one
    more_rows = trained(1000, "train.validate_rows=64") - trained(4000, "train.validate_rows=64")
    assert more_rows == pytest.approx(2 * (four - one))


def test_a_forecast_counts_a_batch_as_long_as_its_longest_prompt(tmp_path):
    texts = ["x" * 35] * 9 + ["x" * 350]
    (tmp_path / "p.txt").write_text("\n".join(texts))
    config = load_config(None, [f"corpus.prompts={tmp_path / 'p.txt'}", "corpus.max_new_tokens=8"])
    plan = corpus.plan(config, tmp_path / "o")
    teacher = teachers.describe(config.teacher)
    assert plan.source == PromptSource(str(tmp_path / "p.txt"))
    alone, many = row_length(plan, teacher, 1), row_length(plan, teacher, 64)
    assert alone == pytest.approx(9 + (9 * 10 + 100) / 10)
    assert many == pytest.approx(9 + 100, abs=1)


def test_rows_that_end_early_shorten_corpus_and_evaluation_alone(tmp_path):
    for name, factor in (("corpus", 0.5), ("train", 1.0)):
        whole = flops(tmp_path, name)
        assert flops(tmp_path, name, "estimate.response_share=0.5") == pytest.approx(factor * whole)
    assert flops(tmp_path, "evaluate", "estimate.response_share=0.5") < flops(tmp_path, "evaluate")


def test_muon_on_a_gpu_compiles_and_adamw_does_not(tmp_path):
    overhead = [stage(tmp_path, "train", f"train.optimizer={name}")[0].overhead_s for name in ("muon", "adamw")]  # fmt: skip
    assert overhead[0] - overhead[1] == COMPILE_S
    assert stage(tmp_path, "train", "estimate.gpus=0", "teacher.device=cpu")[0].overhead_s == overhead[1]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "resources", "expected"),
    [
        ([], {"CPU": 64, "GPU": 8}, (8, "GPU")),
        ([], {"CPU": 6}, (6, "CPU core")),
        (["teacher.device=cpu"], {"CPU": 64, "GPU": 8}, (64, "CPU core")),
        (["teacher.device=cuda", "train.workers=4"], {"CPU": 6}, (4, "GPU")),
        (["estimate.gpus=2"], {"CPU": 64, "GPU": 8}, (2, "GPU")),
    ],
)
def test_the_devices_are_the_clusters_unless_the_user_names_them(overrides, resources, expected):
    devices = Devices.of(load_config(None, overrides), resources)
    assert (devices.count, devices.kind) == expected


def test_a_plan_starts_no_cluster_and_names_one_that_is_away(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster.named_resources() is None
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")  # of a job server
    assert cluster.named_resources() is None
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setattr(cluster.ray, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("no")))  # fmt: skip
    with pytest.raises(UserError, match=r"No Ray cluster at \$RAY_ADDRESS=127\.0\.0\.1:9: no"):
        cluster.named_resources()


def test_a_stages_time_stands_beside_its_forecast(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = load_config(None, ["evaluate.judge=none"])
    plan = corpus.plan(config, tmp_path)
    expected = expected_seconds(plan, config, None)
    assert expected == pytest.approx(
        expected_seconds(plan, config, {"CPU": Devices.of(config).count})
    )
    with open_run(config, tmp_path) as tracker:
        run_stage.staged(config, plan, lambda: {"rows": 1}, tracker)
    assert f"forecast {expected:.0f} s" in capsys.readouterr().out
    times = recorded_times(tmp_path)["corpus"]
    assert times["forecast_seconds"] == pytest.approx(expected, abs=0.1) and times["seconds"] < 5
    metrics = MlflowClient(tracker.uri).get_run(tracker.outbox.run_id).data.metrics
    assert metrics["time/corpus_forecast_seconds"] == times["forecast_seconds"]
    assert metrics["time/corpus_seconds"] == times["seconds"]


def test_a_stage_without_a_forecast_has_its_time_alone(tmp_path):
    plan = report.plan(load_config(None, ["evaluate.judge=none"]), tmp_path)
    assert expected_seconds(plan, plan.evaluate.config, None) is None
    run_once(plan, lambda: {})
    assert set(recorded_times(tmp_path)["report"]) == {"seconds"}
    assert json.loads((tmp_path / MANIFEST).read_text())["stages"]["report"]["results"] == {}


def test_a_forecast_of_the_quickstart_is_of_the_size_that_was_measured(tmp_path):
    """Seconds of docs/quickstart.md, on two idle cores: within a factor of two, which is the claim."""
    config = load_config(config_file("quickstart"))
    devices = Devices.of(config, {"CPU": 2})
    made = forecasts(report.plan(config, tmp_path), None, devices)
    measured = {"corpus": 83, "train": 276, "evaluate": 198}
    for each in made:
        assert 0.5 < each.seconds(devices) / measured[each.name] < 2, each

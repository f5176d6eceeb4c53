"""Every preset is planned from its true configuration and columns, and a plan costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants as constants
import pytest

from jointsampler import UserError
from jointsampler.cli import main
from jointsampler.config import load_config
from tests.support.hub import COMMIT, Hub
from tests.support.presets import DATA_SET, hub_of_presets
from workflows import corpus
from workflows.cli import PRESETS, config_file

ROOT = Path(__file__).parents[2]
SLOWER = 2  # a processor that shares its caches with other work
ON_HUB = ("dream-7b", "llada-8b", "paper-dream-7b")
REAL_ENDPOINT = constants.ENDPOINT


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with hub_of_presets(tmp_path_factory.mktemp("hub")) as started:
        yield started


@pytest.fixture(autouse=True)
def _use(hub: Hub, tmp_path, monkeypatch):
    """The stub is the hub, the local cache is empty, and the judge of the small presets is not made."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(REAL_ENDPOINT, hub.endpoint)
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("JOINTSAMPLER_CACHE", str(tmp_path / "cache"))
    hub.fetched.clear()
    hub.sent.clear()


def plan(name: str, out, *overrides: str) -> int:
    return main(["run", "pipeline", "--config", name, "--out", str(out), "--plan", *overrides])


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_a_preset_is_planned_with_no_file_above_100_kB(hub: Hub, name, tmp_path, capsys):
    out = tmp_path / "o"
    assert plan(name, out) == 0
    told = capsys.readouterr().out
    stages = {line.split()[0] for line in told.splitlines()}
    assert {"corpus", "train", "evaluate", "all"} <= stages
    assert bool(hub.fetched) == (name in ON_HUB)
    assert not [file for file in hub.fetched if file.endswith(".safetensors")]
    assert max(hub.sent.values(), default=0) <= 100_000
    assert list(out.iterdir()) == [] and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ON_HUB)
def test_a_name_that_no_revision_pins_is_told_in_one_sentence(name, tmp_path, capsys):
    assert plan(name, tmp_path / "o") == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("Not pinned:")]
    assert "teacher.revision" in line and "evaluate.judge_revision" in line
    assert ("corpus.revision" in line) == (name != "paper-dream-7b")
    keys = ("teacher.revision", "corpus.revision", "evaluate.judge_revision")
    pins = [f"{key}={COMMIT}" for key in keys]
    assert plan(name, tmp_path / "o", *pins) == 0
    assert "Not pinned" not in capsys.readouterr().out


OFFLINE = """
import sys, time
from jointsampler.cli import main
status = main(["run", "pipeline", "--config", sys.argv[1], "--out", sys.argv[2], "--plan"])
loaded = [name for name in ("mlflow", "ray.train", "deepspeed", "datasets") if name in sys.modules]
print("seconds", time.process_time(), "status", status, "loaded", *loaded)
"""


@pytest.mark.parametrize(("name", "status"), [("quickstart", 0), ("dream-7b", 2)])
def test_an_offline_plan_takes_less_than_five_seconds_with_all_imports(name, status, tmp_path):
    """Of a processor: the machine of a test has other work. Offline, a hub teacher ends in a sentence."""
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, name, tmp_path / "o"],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    words = done.stdout.splitlines()[-1].split()
    assert words[2:] == ["status", str(status), "loaded"]
    assert float(words[1]) < 5 * SLOWER


def test_the_prompts_of_a_preset_fit_its_teacher(hub: Hub, tmp_path):
    """The first thing that a run does, before it starts Ray."""
    data = next(iter(hub.data_sets.values())) / "MetaMathQA-40K.json"
    overrides = [
        "corpus.rows=12",
        "corpus.held_out=4",
        f"corpus.prompts={data}",
        "evaluate.judge=none",
    ]
    planned = corpus.plan(load_config(config_file("llada-8b"), overrides), tmp_path)
    corpus.prepare(planned)
    assert "tokenizer.json" in hub.fetched  # a run needs the vocabulary
    (turn,) = corpus.prompts_of(planned)[3]
    assert turn == {"role": "user", "content": json.loads(data.read_text())[3]["query"]}
    assert len(corpus.prompts_of(planned)) == 16
    data_before = hub.fetched.copy()
    corpus.prepare(planned)  # once per corpus: what was written stays
    assert hub.fetched == data_before


@pytest.mark.parametrize("source", [DATA_SET, "local"])
def test_a_column_that_the_data_set_lacks_is_refused_with_the_nearest(hub: Hub, source, tmp_path):
    data = next(iter(hub.data_sets.values())) / "MetaMathQA-40K.json"
    name = str(data) if source == "local" else source
    overrides = [f"corpus.prompts={name}", "corpus.prompt_template={querry}"]
    with pytest.raises(UserError, match=r"did you mean 'query'.*query, response, type"):
        corpus.plan(load_config(config_file("dream-7b"), overrides), tmp_path)


def test_a_data_set_that_the_hub_does_not_have_is_refused(tmp_path):
    config = load_config(config_file("dream-7b"), ["corpus.prompts=meta-math/Absent"])
    with pytest.raises(
        UserError, match=r"Cannot read prompts from corpus\.prompts='meta-math/Absent'"
    ):
        corpus.plan(config, tmp_path)


def test_a_plan_that_cannot_look_at_the_data_set_says_so(tmp_path, monkeypatch, capsys):
    prompts = f"corpus.prompts={DATA_SET}"
    assert plan("quickstart", tmp_path / "o", prompts, "corpus.prompt_template={query}") == 0
    assert "Not looked at" not in capsys.readouterr().out
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert plan("quickstart", tmp_path / "o", prompts, "corpus.prompt_template={query}") == 0
    assert f"Not looked at: corpus.prompts={DATA_SET}" in capsys.readouterr().out

"""What a run needs is fetched ahead of it, once on a node, and then nothing more is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from jointsampler import UserError
from jointsampler.cli import main
from jointsampler.evaluation import judges
from tests.support import checkpoints
from tests.support.hub import Hub
from tests.support.presets import DATA_SET, write_data_set
from workflows.prefetch import Fetched, check_same

ROOT = Path(__file__).parents[2]
# What a run does with the network away: plan, prompts, teacher, judge.
RUN = """
import sys
from pathlib import Path
from jointsampler.config import load_config
from jointsampler.evaluation.judges import Judge
from workflows import corpus, evaluation
config = load_config(sys.argv[1])
plan = evaluation.plan(config, Path(sys.argv[2]))
corpus.prepare(plan.train.corpus)
corpus.TeacherActor(plan.train.corpus)
Judge(judges) if (judges := evaluation.prepare_judge(config.evaluate.judge)) else None
print(len(corpus.prompts_of(plan.train.corpus)), "prompts")
"""


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    named = {
        "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "JOINTSAMPLER_CACHE": str(home / "ours"),
        "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | named | more


def python(hub: Hub, home: Path, *arguments: object, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=home, env=environment(hub, home, **more),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_run_needs_no_network_after_prefetching(tmp_path, judge_folder):
    checkpoints.write_dream(tmp_path / "dream")
    write_data_set(tmp_path / "data")
    config = tmp_path / "config.yaml"
    settings = {
        "teacher": {"name": "maker/dream"},
        "corpus": {"rows": 6, "held_out": 2, "prompts": DATA_SET, "prompt_template": "{query}",
                   "max_new_tokens": 8},
        "train": {"k_max": 4}, "sampler": {"width": 32},
        "evaluate": {"judge": "maker/judge", "ks": [1, 2]},
    }  # fmt: skip
    config.write_text(yaml.safe_dump(settings))
    repositories = {"maker/dream": tmp_path / "dream", "maker/judge": judge_folder}
    with Hub(repositories, data_sets={DATA_SET: tmp_path / "data"}) as hub:
        told = python(hub, tmp_path, "-m", "workflows.prefetch", "--config", config)
        assert f"prompts {DATA_SET}" in told
        assert "teacher maker/dream (" in told and "judge maker/judge (" in told
        weights = [file for file in hub.fetched if file.endswith(".safetensors")]
        assert len(weights) == len(set(weights)) == 4  # three shards and the judge
        before = len(hub.fetched)
        offline = ("-c", RUN, config, tmp_path / "out")
        assert "8 prompts" in python(hub, tmp_path, *offline, HF_HUB_OFFLINE="1")
        assert len(hub.fetched) == before


def test_two_processes_of_a_node_fetch_each_file_once(tmp_path):
    """The hub client's own locks do it. No file is sent before both processes have asked for it."""
    checkpoints.write_llada(tmp_path / "llada")
    asked, both = [], threading.Event()

    class Waiting(Hub):
        def send_file(self, request, path, with_body):
            if path.suffix == ".safetensors":
                if with_body:
                    assert both.wait(60)
                else:
                    asked.append(path.name)
                    if len(asked) == 2:
                        both.set()
            super().send_file(request, path, with_body)

    fetch = "from huggingface_hub import snapshot_download; snapshot_download('maker/llada')"
    with Waiting({"maker/llada": tmp_path / "llada"}) as hub:
        running = [
            subprocess.Popen([sys.executable, "-c", fetch], env=environment(hub, tmp_path / "home"))
            for _ in range(2)
        ]
        assert [process.wait(120) for process in running] == [0, 0]
        assert hub.fetched.count("model.safetensors") == 1 and len(asked) >= 2


def test_processes_that_need_the_default_judge_make_it_once(tmp_path, monkeypatch):
    """The second waits for the first, and then finds the judge made."""
    monkeypatch.setenv("JOINTSAMPLER_CACHE", str(tmp_path))
    folder = tmp_path / f"smollm2-{judges._SHA256[:12]}"
    waits, found = threading.Event(), []

    class Noticed(FileLock):
        def acquire(self, *args, **kwargs):
            waits.set()
            return super().acquire(*args, **kwargs)

    monkeypatch.setattr(judges, "FileLock", Noticed)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("it was fetched again"))
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # the first process, at work
        second = threading.Thread(target=lambda: found.append(judges.fetch_smollm2()))
        second.start()
        assert waits.wait(60)
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    second.join(60)
    assert found == [folder]


def test_an_embedded_teacher_is_there_already(capsys):
    assert main(["prefetch", "--config", "quickstart", "evaluate.judge=none"]) == 0
    told = capsys.readouterr().out
    assert "teacher tiny (" in told and "judge" not in told and "prompts" not in told


def test_what_cannot_be_had_is_one_sentence(capsys):
    assert main(["prefetch", "teacher.name=absent", "evaluate.judge=none"]) == 2
    assert "No teacher 'absent'" in capsys.readouterr().err


def test_nodes_with_different_weights_are_named():
    nodes = [Fetched(f"n{i}", "ab" if i < 2 else "cd", {}, 0.0) for i in range(3)]
    check_same(nodes[:2])
    with pytest.raises(UserError, match=r"ab on n1, cd on n2.*teacher\.revision"):
        check_same(nodes)

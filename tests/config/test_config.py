"""The configuration refuses what it does not know, and says what it expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from jointsampler import UserError
from jointsampler.config.schema import Config, known_keys, load_config

PRESETS = sorted((Path(__file__).parents[2] / "workflows" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.name)
def test_every_preset_loads(path):
    assert isinstance(load_config(path), Config)


def test_overrides_win_over_the_file_and_keep_their_types(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("train: {steps: 5, lr: 0.1}\n")
    config = load_config(path, ["train.steps=7", "evaluate.ks=[1, 4]", "corpus.prompts=null"])
    assert (config.train.steps, config.train.lr) == (7, 0.1)
    assert config.evaluate.ks == [1, 4]
    assert config.corpus.prompts is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.stpes=3"], r"'train\.stpes' \(did you mean 'train\.steps'\?\)"),
        (["trian.steps=3"], "did you mean 'train"),
        (["train.steps=-1"], r"train\.steps .*greater than or equal to 0 \(got -1\)"),
        (["train.steps=many"], r"train\.steps .*integer"),
        (["train.zero_stage=7"], r"train\.zero_stage"),
        (["train.steps"], "has no '='"),
        (["train.steps=[1"], "not valid YAML"),
        (["train.lr.x=1"], "train.lr"),
    ],
)
def test_bad_overrides_get_one_sentence(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        load_config(None, overrides)
    assert "Traceback" not in str(caught.value)


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.yaml"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="must be a mapping"):
        load_config(tmp_path / "list.yaml")


def test_every_key_of_the_schema_is_read_somewhere():
    """A key that nobody reads is a lie to the user."""
    root = Path(__file__).parents[2]
    code = "\n".join(
        path.read_text()
        for folder in ("jointsampler", "workflows")
        for path in (root / folder).rglob("*.py")
        if path.name != "config.py"
    )
    unread = [key for key in known_keys() if f".{key.split('.')[-1]}" not in code]
    assert unread == []

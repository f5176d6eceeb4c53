"""The configuration refuses unknown keys and wrong values, and names the right ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jointsampler import UserError
from jointsampler.config import Config, changed, known_keys, load_config

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "workflows" / "configs").glob("*.yaml"))


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


def test_an_unknown_key_is_answered_with_the_keys_of_its_section():
    with pytest.raises(UserError) as caught:
        load_config(None, ["sampler.window=16"])
    assert "sampler.depth, sampler.mlp, sampler.width" in str(caught.value)
    assert "train." not in str(caught.value)


def test_a_changed_configuration_is_validated_too():
    assert changed(Config(), {"train.k_max": 4}).train.k_max == 4
    with pytest.raises(UserError, match=r"train\.k_max .* a changed configuration"):
        changed(Config(), {"train.k_max": 1})


def test_refresh_is_among_the_evaluated_methods_and_its_columns_have_settings_of_their_own():
    config = Config()
    assert config.evaluate.methods == ["marginal", "refresh", "joint"]
    assert (config.columns.count, config.columns.policy) == (8, "attention")


def test_loading_a_configuration_imports_no_torch():
    code = (
        "import sys, types, pathlib; import importlib.util as u; "
        f"root = pathlib.Path({str(ROOT)!r}); "
        # The package's own __init__ imports torch; config must not need it.
        "package = types.ModuleType('jointsampler'); package.__path__ = [str(root / 'jointsampler')]; "
        "sys.modules['jointsampler'] = package; "
        "import jointsampler.config; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_key_of_the_schema_is_read_somewhere():
    """A key that no code reads would be ignored without a word."""
    code = "\n".join(
        path.read_text()
        for folder in ("jointsampler", "workflows")
        for path in (ROOT / folder).rglob("*.py")
        if path.parent.name != "config"
    )
    unread = [key for key in known_keys() if f".{key.split('.')[-1]}" not in code]
    assert unread == []


def test_text_stays_what_was_typed_whatever_yaml_makes_of_it():
    config = load_config(
        None,
        [
            "corpus.prompt_template={query}",
            "corpus.revision=0123456",
            "teacher.revision=12e4567",
            "run.experiment=2026",
            "evaluate.judge='quoted'",
            "run.storage=null",
        ],
    )
    assert config.corpus.prompt_template == "{query}" and config.corpus.revision == "0123456"
    assert config.teacher.revision == "12e4567" and config.run.experiment == "2026"
    assert config.evaluate.judge == "quoted" and config.run.storage is None
    assert (
        load_config(None, ["corpus.prompt_template={a} and {b}"]).corpus.prompt_template
        == "{a} and {b}"
    )

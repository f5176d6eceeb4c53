"""The model of lm-evaluation-harness: the same samples as our own runner, whatever the batch."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from jointsampler import Refresh, UserError, generate, load_teacher
from jointsampler.cli import main
from jointsampler.cli.common import updates_of
from jointsampler.decoding.prompts import encode_prompts
from jointsampler.evaluation.likelihood import likelihood_bound
from jointsampler.harness import command
from jointsampler.harness.command import TASKS as FOLDER
from jointsampler.harness.model import JointSamplerLM
from jointsampler.tasks import TASKS, UNSEEN, chance, examples, independent
from tests.support.families import load_family

N = 6


def model(**given) -> JointSamplerLM:
    return JointSamplerLM(
        **({"method": "marginal", "k": 4, "device": "cpu", "batch_size": 8} | given)
    )


def requests(kind: str, *arguments: tuple, repeats: int = 1) -> list[Instance]:
    """One document per tuple of arguments, repeated as the harness does it."""
    made = [
        Instance(kind, {}, args, 0, metadata=("some task", i, repeats))
        for i, args in enumerate(arguments)
    ]
    return [instance for instance in made for _ in range(repeats)]


def evaluated(tasks: list[str], batch_size: int = 8, **model_args) -> dict:
    return simple_evaluate(
        "jointsampler",
        model_args={"teacher": "tiny", "method": "marginal", "k": 2} | model_args,
        tasks=tasks,
        batch_size=batch_size,
        device="cpu",
        bootstrap_iters=0,
        task_manager=TaskManager(
            include_path=str(FOLDER), include_defaults=False, metadata={"documents": N}
        ),
    )


def texts_of(results: dict, task: str) -> list[str]:
    return [sample["resps"][0][0] for sample in results["samples"][f"jointsampler_{task}"]]


@pytest.fixture(scope="module")
def at_batch_16():
    return evaluated(["jointsampler_sort", "jointsampler_shuffle"], batch_size=16)


@pytest.mark.parametrize("name", ["sort", "shuffle"])
def test_the_harness_and_our_own_runner_agree(tiny, at_batch_16, name):
    task = TASKS[name]
    known = examples(task, UNSEEN, N)
    out = generate(
        tiny, prompts=[e.prompt for e in known], method="marginal", k=2, max_new_tokens=32,
        stop_at_end=True,
    )  # fmt: skip
    right = [task.check(e.prompt, text) for e, text in zip(known, out.texts, strict=True)]
    assert texts_of(at_batch_16, name) == out.texts
    assert at_batch_16["results"][f"jointsampler_{name}"]["acc,none"] == sum(right) / N


def test_the_batch_size_changes_no_response(at_batch_16):
    for size in (1, 4):
        small = evaluated(["jointsampler_shuffle"], batch_size=size)
        assert texts_of(small, "shuffle") == texts_of(at_batch_16, "shuffle")


def test_results_hold_the_cost_and_the_settings(at_batch_16):
    config = at_batch_16["config"]
    assert config["cost"]["teacher_passes"] == 2 * N * 16  # 32 tokens, 2 per pass
    assert config["settings"]["method"] == "marginal"


def test_every_task_has_a_file():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*TASKS, "humaneval", "humaneval_20"}


def test_chance_and_independent_unmasking_stand_beside_the_accuracy(at_batch_16):
    for name in ("sort", "shuffle"):
        found = at_batch_16["results"][f"jointsampler_{name}"]
        answers = [TASKS[name].answers(e.prompt) for e in examples(TASKS[name], UNSEEN, N)]
        assert found["chance,none"] == pytest.approx(sum(map(chance, answers)) / N)
        assert found["independent,none"] == pytest.approx(sum(map(independent, answers)) / N)


@pytest.mark.slow  # the harness reads the files of all its own tasks
def test_the_command_finds_model_and_tasks_by_itself(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jointsampler"])
    words = "--model_args method=marginal,k=8 --tasks jointsampler_copy --device cpu"
    assert main(["lm-eval", *words.split(), "--metadata", json.dumps({"documents": 2})]) == 0
    assert "jointsampler_copy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        (["--tasks", "x"], ["run", "--model", "jointsampler", "--include_path", str(FOLDER)]),
        (
            ["run", "--tasks", "x"],
            ["run", "--model", "jointsampler", "--include_path", str(FOLDER)],
        ),
        (["ls", "tasks"], ["ls", "tasks"]),
    ],
)
def test_the_command_completes_the_arguments_of_the_harness(monkeypatch, words, passed):
    seen = []
    monkeypatch.setattr(sys, "argv", ["jointsampler"])
    monkeypatch.setattr(command, "cli_evaluate", lambda: seen.extend(sys.argv[1:]))
    assert main(["lm-eval", *words]) == 0
    assert seen == (passed if words[0] == "ls" else [*passed, "--tasks", "x"])


def test_a_mistake_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jointsampler"])
    monkeypatch.setattr(command, "cli_evaluate", lambda: model(method="refesh"))
    assert main(["lm-eval"]) == 2
    assert "jointsampler: Unknown method 'refesh'" in capsys.readouterr().err


def test_without_the_harness_the_command_says_what_to_install(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("jointsampler.harness")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["lm-eval"]) == 2
    assert "pip install 'jointsampler[lm-eval]'" in capsys.readouterr().err


def test_the_model_is_registered():
    assert get_model("jointsampler") is JointSamplerLM


@pytest.mark.parametrize("method", ["sequential", "refresh", "joint", "lossless", "threshold"])
def test_methods_decode_as_generate_does(tiny, shipped, method):
    lm = model(method=method)
    (found,) = lm.generate_until(
        requests("generate_until", ("sort: bob ann cid ->", {"max_gen_toks": 8})), True
    )
    update = {"joint": "joint", "lossless": "joint"}.get(method)
    out = generate(
        tiny,
        update and updates_of(lm.settings, shipped)[update],
        ["sort: bob ann cid ->"],
        method,
        max_new_tokens=8,
        temperature=0,
        stop_at_end=True,
    )
    assert found == out.texts[0]


def test_method_auto_chooses_once_for_all_batches(tiny, monkeypatch):
    asked = []

    def chosen(teacher, sampler, prompts, settings):
        asked.append(len(prompts))
        passed = {name: value for name, value in settings.items() if name not in ("budget", "k")}
        passed = {n: v for n, v in passed.items() if n not in ("block_length", "cache")}
        return SimpleNamespace(method="refresh", update=Refresh(4), k=8), passed

    monkeypatch.setattr("jointsampler.harness.model.resolve", chosen)
    prompts = ["copy: ann bob ->", "copy: cid dan ->", "copy: eve fay ->"]
    found = model(method="auto", k=None, budget=0.1, batch_size=2).generate_until(
        requests("generate_until", *[(p, {"max_gen_toks": 8}) for p in prompts]), True
    )
    out = generate(
        tiny, Refresh(4), prompts, "refresh", 8, max_new_tokens=8, temperature=0, stop_at_end=True
    )
    assert asked == [3] and found == out.texts


def test_repeats_are_the_samples_of_a_prompt(tiny):
    prompts = ["shuffle: ann bob cid ->", "shuffle: dan eve fay ->"]
    wanted = {"do_sample": True, "max_gen_toks": 12}
    found = model(seed=3).generate_until(
        requests("generate_until", *[(p, wanted) for p in prompts], repeats=3), True
    )
    out = generate(
        tiny, prompts=prompts, num_samples=3, method="marginal", max_new_tokens=12, seed=3,
        stop_at_end=True,
    )  # fmt: skip
    assert found == out.texts and len(set(found)) > 2


def test_requests_of_several_kinds_come_back_in_their_order():
    lm = model()
    asked = requests(
        "generate_until",
        ("copy: ann bob cid ->", {"max_gen_toks": 8}),
        ("copy: dan eve fay ->", {"max_gen_toks": 16, "until": [" eve"]}),
        ("copy: gus hal ida ->", {"max_gen_toks": 8}),
    )
    one_by_one = [lm.generate_until([request], True)[0] for request in asked]
    assert lm.generate_until(asked, True) == one_by_one


def test_a_prompt_too_long_is_refused_before_anything_is_decoded(tiny):
    lm = model()
    asked = requests("generate_until", ("copy: ann ->", {}), ("ann " * 300, {}))
    with pytest.raises(UserError, match="exceeds the context"):
        lm.generate_until(asked, True)
    assert not lm.cost


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    """A model on a random teacher with a chat template."""
    folder = tmp_path_factory.mktemp("chat")
    load_family(folder, "dream")
    return model(teacher=str(folder / "dream"))


USER = [{"role": "user", "content": "hello"}]


def test_a_conversation_goes_through_the_teachers_template(chatting):
    asked = requests("generate_until", (chatting.apply_chat_template(USER), {"max_gen_toks": 8}))
    out = generate(
        chatting.teacher, prompts=[USER], method="marginal", max_new_tokens=8, temperature=0,
        stop_at_end=True,
    )  # fmt: skip
    assert chatting.generate_until(asked, True) == out.texts


def test_a_begun_answer_is_continued(chatting):
    begun = [*USER, {"role": "assistant", "content": "so it"}]
    (ids,) = encode_prompts(chatting.teacher, [begun], 1)
    assert chatting.tokenizer.decode(ids).endswith("assistant\nso it")
    assert chatting.apply_chat_template(begun, add_generation_prompt=False)


def test_a_likelihood_is_the_bound_of_the_continuation(tiny):
    lm = model(likelihood_draws=8, seed=2)
    pairs = [("sort: bob ann ->", " ann bob"), ("sort: bob ann ->", " bob bob")]
    (right, is_greedy), (wrong, not_greedy) = lm.loglikelihood(
        requests("loglikelihood", *pairs), True
    )
    ids = encode_prompts(tiny, ["sort: bob ann ->"], 0)
    answers = [tiny.tokenizer.encode(text) for _, text in pairs]
    bounds = likelihood_bound(tiny, ids * 2, answers, [0, 1], draws=8, seed=2)
    assert [right, wrong] == pytest.approx(bounds.tolist(), abs=1e-4)
    assert right > wrong and is_greedy and not not_greedy


def test_a_multiple_choice_task_with_local_data_runs(tmp_path):
    rows = [
        {"question": f"sort: {a} {b} ->", "choices": [f" {b} {a}", f" {a} {b}"], "gold": 0}
        for a, b in [("bob", "ann"), ("zoe", "max"), ("sue", "cid")]
    ]
    data = tmp_path / "order.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": "order",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    results = simple_evaluate(
        model(likelihood_draws=4),
        tasks=[task],
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )
    assert results["results"]["order"]["acc,none"] == 1.0


def test_blanks_after_the_context_belong_to_the_continuation():
    lm = model(likelihood_draws=4)
    (one,), (other,) = (
        lm.loglikelihood(requests("loglikelihood", pair), True)
        for pair in (("sort: bob ann -> ", "ann bob"), ("sort: bob ann ->", " ann bob"))
    )
    assert one == pytest.approx(other)


def test_a_rolling_likelihood_adds_the_windows(tiny):
    lm = model(likelihood_draws=1)
    text = "ann bob cid " * 90
    ids = tiny.tokenizer.encode(text, add_special_tokens=False)
    size = tiny.max_length - 1
    windows = [ids[i : i + size] for i in range(0, len(ids), size)]
    assert len(windows) > 1
    bounds = likelihood_bound(tiny, [[tiny.bos_id]] * len(windows), windows, [0] * len(windows), 1)
    found = lm.loglikelihood_rolling(requests("loglikelihood_rolling", (text,), ("",)), True)
    assert found == pytest.approx([float(bounds.sum()), 0.0], rel=1e-4)


def test_a_teacher_without_a_template_refuses_a_conversation():
    lm = model()
    asked = requests("generate_until", (lm.apply_chat_template(USER), {"max_gen_toks": 8}))
    with pytest.raises(UserError, match="no chat template"):
        lm.generate_until(asked, True)
    assert load_teacher("tiny", device="cpu").tokenizer.chat_template is None

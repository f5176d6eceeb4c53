"""Block decoding, what is kept of finished blocks, and where a row may end."""

from __future__ import annotations

import pytest
import torch

from jointsampler import JointSampler, Refresh, UserError, generate, load_teacher
from jointsampler.decoding.cache import BlockCausalView, PrefixView
from jointsampler.decoding.canvas import Canvas
from tests.support import checkpoints
from tests.support.analytic import OracleUpdate, skewed_teacher

PROMPTS = ["def main(", "x", "import os\n\nfor"]


@pytest.fixture(scope="module", params=["tiny", "dream"])
def teacher(request, tiny, tmp_path_factory):
    if request.param == "tiny":
        return tiny
    folder = tmp_path_factory.mktemp("dream")
    checkpoints.write_dream(folder)
    return load_teacher(str(folder), device="cpu")


@pytest.fixture(scope="module")
def sampler(teacher):
    sampler = JointSampler.for_teacher(teacher, seed=3)
    torch.nn.init.normal_(
        sampler.project.weight, std=0.02, generator=torch.Generator().manual_seed(3)
    )
    return sampler.eval()


@pytest.mark.parametrize("method", ["sequential", "joint", "refresh", "lossless", "entropy_bound"])
def test_blocks_are_finished_from_the_left(teacher, sampler, method):
    update = Refresh(4) if method == "refresh" else sampler
    out = generate(
        teacher, update, PROMPTS, method=method, k=3, max_new_tokens=12, block_length=4, seed=2
    )
    for row in out.order.tolist():
        assert sorted(row) == list(range(12))
        assert [sorted(row[at : at + 4]) for at in (0, 4, 8)] == [
            list(range(at, at + 4)) for at in (0, 4, 8)
        ]


def test_one_block_as_long_as_the_response_changes_nothing(teacher, sampler):
    settings = dict(prompts=PROMPTS, method="joint", k=3, max_new_tokens=12, seed=2)
    plain = generate(teacher, sampler, **settings)
    block = generate(teacher, sampler, block_length=12, **settings)
    assert torch.equal(plain.sequences, block.sequences)


def block_causal_hidden(teacher, ids, real, start, block):
    """The same states from one pass under an explicit mask: nobody sees a later block."""
    width = ids.shape[1]
    of = torch.where(torch.arange(width) < start, 0, 1 + (torch.arange(width) - start) // block)
    sees = of[:, None] >= of[None, :]
    allowed = sees[None] & real[:, None, :]
    allowed |= torch.eye(width, dtype=torch.bool)
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    raw = teacher.model.model(
        input_ids=ids,
        attention_mask=mask[:, None],
        position_ids=(real.long().cumsum(-1) - 1).clamp_min(0),
        use_cache=False,
    ).last_hidden_state
    return teacher.align(raw, real)


@torch.inference_mode()
def test_the_block_causal_cache_is_exact(teacher):
    """Every block's states equal those of an uncached pass under a block-causal mask."""
    prompts = [teacher.tokenizer.encode(text, add_special_tokens=False) for text in PROMPTS]
    canvas = Canvas(teacher, prompts, torch.arange(3), 12)
    draw = torch.Generator().manual_seed(0)
    real, view = canvas.attention_mask, None
    for begin in (0, 4, 8):
        first, last = canvas.start + begin, canvas.start + begin + 4
        view = BlockCausalView(teacher, canvas, first, last, view)
        for _ in range(2):  # the second pass over a block must not see what the first left
            got = view.hidden(canvas.ids, real)
            want = block_causal_hidden(
                teacher, canvas.ids[:, :last], real[:, :last], canvas.start, 4
            )
            assert torch.allclose(got[:, first:last], want[:, first:], atol=1e-4)
            canvas.ids[:, first : first + 2] = torch.randint(4, 50, (3, 2), generator=draw)
        canvas.ids[:, first:last] = torch.randint(4, 50, (3, 4), generator=draw)


@torch.inference_mode()
def test_the_prefix_cache_is_exact_until_the_block_changes_and_close_after(teacher):
    prompts = [teacher.tokenizer.encode(text, add_special_tokens=False) for text in PROMPTS]
    canvas = Canvas(teacher, prompts, torch.arange(3), 8)
    first = canvas.start + 4
    view = PrefixView(teacher, first)
    whole = teacher.hidden(canvas.ids, canvas.attention_mask)
    assert torch.allclose(view.hidden(canvas.ids, canvas.attention_mask), whole, atol=1e-5)
    again = view.hidden(canvas.ids, canvas.attention_mask)
    shown = canvas.attention_mask
    assert torch.allclose(again[shown], whole[shown], atol=1e-4)
    canvas.ids[:, first] = 7  # the prefix does not see it
    stale = view.hidden(canvas.ids, canvas.attention_mask)
    assert torch.equal(stale[:, :first], again[:, :first])
    assert not torch.allclose(stale[:, first:], again[:, first:], atol=1e-4)


@pytest.mark.parametrize("cache", ["prefix", "block_causal"])
@pytest.mark.parametrize("method", ["sequential", "joint", "threshold"])
def test_with_a_cache_a_row_still_does_not_depend_on_its_batch(teacher, sampler, cache, method):
    settings = dict(method=method, k=2, max_new_tokens=8, block_length=4, cache=cache, seed=4)
    together = generate(teacher, sampler, PROMPTS, **settings)
    for row, prompt in enumerate(PROMPTS):
        alone = generate(teacher, sampler, [prompt], row_ids=[row], **settings)
        assert torch.equal(alone.responses[0], together.responses[row])


@pytest.mark.parametrize("stop_at_end", [False, True])
def test_prefixes_of_a_verification_share_the_finished_blocks(teacher, sampler, stop_at_end):
    """Greedy, lossless decoding equals sequential decoding, with the cache as without."""
    settings = dict(
        max_new_tokens=12, block_length=4, cache="block_causal", temperature=0.0,
        stop_at_end=stop_at_end,
    )  # fmt: skip
    want = generate(teacher, None, PROMPTS, method="sequential", **settings)
    for update in (None, sampler):
        got = generate(teacher, update, PROMPTS, method="lossless", k=3, **settings)
        assert torch.equal(got.sequences, want.sequences)
        if not stop_at_end:
            assert torch.equal(got.order, want.order)
    alone = generate(
        teacher, sampler, PROMPTS[1:2], method="lossless", k=3, row_ids=[1], **settings
    )
    assert torch.equal(alone.responses[0], got.responses[1])


def test_a_row_that_ends_early_has_the_same_text_and_saves_the_passes_behind_its_end():
    """Symbol 2 is the end token."""
    teacher = skewed_teacher(length=6)
    teacher.end_ids, teacher.eos_id = (2,), 2
    settings = dict(
        method="joint", k=2, num_samples=64, max_new_tokens=6, seed=1, order="left_to_right"
    )
    full = generate(teacher, OracleUpdate(teacher), **settings)
    early = generate(teacher, OracleUpdate(teacher), stop_at_end=True, **settings)
    assert torch.equal(full.effective_tokens, early.effective_tokens)
    for a, b, n in zip(
        full.responses, early.responses, full.effective_tokens.tolist(), strict=True
    ):
        assert torch.equal(a[:n], b[:n])
    never = early.order == -1  # the last reveals of those rows, which went left to right
    assert (early.responses[never] == 2).all() and never.any() and not (full.order == -1).any()
    assert (early.teacher_passes == ((early.effective_tokens + 1).clamp_max(6) + 1) // 2).all()
    assert (early.teacher_passes < full.teacher_passes).any()


def test_a_row_does_not_end_while_something_before_its_end_token_is_masked(teacher):
    canvas = Canvas(teacher, [[5]], torch.arange(1), 4)
    end = torch.tensor(teacher.end_ids)
    yes = torch.tensor([True])
    canvas.reveal(torch.tensor([2]), end[:1], yes)
    canvas.end_rows(end)
    assert canvas.unfinished().all()
    for position in (0, 1):
        canvas.reveal(torch.tensor([position]), torch.tensor([7]), yes)
    canvas.end_rows(end)
    assert not canvas.unfinished().any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(block_length=5), "block_length=5 does not divide"),
        (dict(block_length=0), "block_length=0 does not divide"),
        (dict(cache="prefix"), "needs a block_length"),
        (dict(cache="prefxi", block_length=4), "cache must be one of"),
        (
            dict(cache="prefix", block_length=4, method="lossless"),
            "would make a lossless method inexact",
        ),
    ],
)
def test_bad_block_settings_are_refused(tiny, trained_like, settings, said):
    with pytest.raises(UserError, match=said):
        generate(tiny, trained_like, **({"method": "joint", "max_new_tokens": 8} | settings))


@pytest.mark.parametrize("cache", ["prefix", "block_causal"])
def test_refresh_and_a_cache_exclude_each_other_in_one_sentence(tiny, cache):
    with pytest.raises(
        UserError, match="'refresh' keeps the keys and values of the whole"
    ) as caught:
        generate(tiny, method="refresh", k=2, max_new_tokens=8, block_length=4, cache=cache)
    assert "\n" not in str(caught.value)


def test_a_teacher_without_past_keys_is_refused_a_cache():
    with pytest.raises(UserError, match="takes no past keys"):
        generate(
            skewed_teacher(), method="sequential", max_new_tokens=4, block_length=2, cache="prefix"
        )

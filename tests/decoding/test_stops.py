"""Stop rules reproduce their papers' definitions on hand-computed cases."""

from __future__ import annotations

import pytest
import torch

from jointsampler import UserError, generate
from tests.support.analytic import OracleSampler, TableTeacher

# Four independent positions over three symbols, with these confidences.
CONFIDENCES = (0.95, 0.9, 0.8, 0.5)


@pytest.fixture(scope="module")
def independent():
    laws = [(c, (1 - c) * 0.75, (1 - c) * 0.25) for c in CONFIDENCES]
    table = {}
    for a in range(3):
        for b in range(3):
            for c in range(3):
                for d in range(3):
                    table[a, b, c, d] = laws[0][a] * laws[1][b] * laws[2][c] * laws[3][d]
    return TableTeacher(table, 3), torch.tensor(laws)


def blocks_of(out):
    """Positions revealed by each teacher pass of the first row, as a list of lists."""
    blocks = [[] for _ in range(int(out.block.max()) + 1)]
    for position, block in zip(out.order[0].tolist(), out.block[0].tolist(), strict=True):
        blocks[block].append(position)
    return blocks


def passes(teacher, method, **settings):
    """Positions revealed by each teacher pass, as a list of lists."""
    out = generate(
        teacher,
        OracleSampler(teacher),
        method=method,
        k=1,
        max_new_tokens=4,
        order="confidence",
        **settings,
    )
    return blocks_of(out)


@pytest.mark.parametrize("prefix", ["", "joint_"])
@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.85, [[0, 1], [2], [3]]),
        (0.75, [[0, 1, 2], [3]]),
        (0.99, [[0], [1], [2], [3]]),
        (0.4, [[0, 1, 2, 3]]),
    ],
)
def test_threshold_reveals_all_that_are_confident_enough_and_one_in_any_case(
    independent, prefix, threshold, expected
):
    assert passes(independent[0], f"{prefix}threshold", threshold=threshold) == expected


@pytest.mark.parametrize(
    ("factor", "expected"),
    # (n + 1)(1 - c_n) of the first pass: n = 2: 0.3, n = 3: 0.8, n = 4: 2.5.
    [
        (0.31, [[0, 1], [2], [3]]),
        (0.81, [[0, 1, 2], [3]]),
        (2.6, [[0, 1, 2, 3]]),
        (0.29, [[0], [1], [2], [3]]),
    ],
)
def test_factor_reveals_the_largest_n_that_its_inequality_allows(independent, factor, expected):
    assert passes(independent[0], "factor", factor=factor) == expected


def test_entropy_bound_compares_the_sum_without_the_largest(independent):
    teacher, laws = independent
    h = -(laws * laws.log()).sum(-1)  # ascending with falling confidence
    assert h.tolist() == sorted(h.tolist())
    just = (h[0] + h[1]).item()  # what the first three cost without the largest
    assert passes(teacher, "entropy_bound", bound=just + 1e-4)[0] == [0, 1, 2]
    assert passes(teacher, "entropy_bound", bound=just - 1e-4)[0] == [0, 1]
    assert passes(teacher, "entropy_bound", bound=0.0) == [[0], [1], [2], [3]]


def test_rows_leave_a_block_on_their_own_and_the_batch_does_not_matter(tiny, trained_like):
    kwargs = {"method": "joint_threshold", "threshold": 0.3, "num_samples": 8, "max_new_tokens": 12}
    together = generate(tiny, trained_like, batch_size=8, **kwargs)
    assert len(together.teacher_passes.unique()) > 1
    apart = generate(tiny, trained_like, batch_size=1, **kwargs)
    for name in ("sequences", "order", "block", "teacher_passes"):
        assert torch.equal(getattr(together, name), getattr(apart, name)), name


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"method": "threshold", "threshold": 0.0}, "threshold must lie in"),
        ({"method": "threshold", "threshold": 1.5}, "threshold must lie in"),
        ({"method": "factor", "factor": -1.0}, "factor must be positive"),
        ({"method": "entropy_bound", "bound": -0.1}, "bound must be 0 nats or more"),
        ({"method": "threshold", "treshold": 0.9}, "did you mean 'threshold'"),
        ({"method": "marginal", "threshold": 0.9}, "has no setting 'threshold'"),
        ({"method": "joint_threshold"}, "needs a sampler"),
    ],
)
def test_bad_settings_are_refused_with_one_sentence(tiny, kwargs, message):
    with pytest.raises(UserError, match=message):
        generate(tiny, None, k=1, max_new_tokens=4, **kwargs)


def test_klass_reveals_what_is_sure_and_has_stopped_moving(independent):
    """Independent positions never move: from the third pass on the sure ones go together."""
    # Passes 0 and 1 have no history of 2 yet: one position each, the surest. Then 2 (0.8) is sure,
    # 3 (0.5) is not and waits for its own pass.
    assert passes(independent[0], "klass", threshold=0.75, history=2) == [[0], [1], [2], [3]]
    assert passes(independent[0], "klass", threshold=0.4, history=2) == [[0], [1], [2, 3]]
    assert passes(independent[0], "klass", threshold=0.75, history=1) == [[0], [1, 2], [3]]
    assert passes(independent[0], "klass", threshold=0.99, history=1) == [[0], [1], [2], [3]]


def test_klass_waits_for_a_position_that_moves():
    """Position 1 copies position 0: sure once that is known, but it has just moved."""
    teacher = TableTeacher({(0, 0, 0): 0.9, (1, 1, 0): 0.1}, 2)
    # Pass 0 reveals position 2 (certain). Pass 1: nothing has moved, 0 and 1 have confidence 0.9.
    assert passes_of(teacher, threshold=0.95, history=1) == [[2], [0], [1]]
    # The hand-computed movement of position 1 when 0 is seen is ln(1 / 0.9) = 0.105 nats: a looser
    # bound lets it go in the same pass as position 0 would allow.
    assert passes_of(teacher, threshold=0.85, history=1) == [[2], [0, 1]]


def passes_of(teacher, **settings):
    out = generate(
        teacher, method="klass", k=1, max_new_tokens=3, order="confidence", seed=1, **settings
    )
    return blocks_of(out)


def test_klass_puts_eligible_positions_before_surer_ones_that_still_move():
    from jointsampler.decoding.block import prefer

    scores = torch.tensor([[0.1, 0.5, 0.3, torch.inf]])
    eligible = torch.tensor([[False, True, True, False]])
    assert prefer(eligible, scores).argsort(dim=1).tolist() == [[2, 1, 0, 3]]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(0.0, [[0], [1], [2], [3]]), (0.5, [[0, 1], [2, 3]]), (9.0, [[0, 1, 2, 3]])],
)
def test_adaptive_ends_a_block_before_the_token_that_would_pass_the_budget(
    independent, budget, expected
):
    """An estimator that expects 0.4 nats per reveal already made in the block; refused reveals cost no pass."""
    teacher = independent[0]
    sampler = OracleSampler(teacher)
    sampler.estimator = lambda seen: torch.full((len(seen.logits),), 0.4 * seen.depth)
    out = generate(
        teacher,
        sampler,
        method="adaptive",
        budget=budget,
        max_new_tokens=4,
        k=1,
        order="confidence",
    )
    assert blocks_of(out) == expected
    assert out.sampler_passes.tolist() == [4 - len(expected)]


def test_adaptive_never_goes_past_the_block_length_that_the_sampler_was_trained_for(independent):
    sampler = OracleSampler(independent[0])
    sampler.config.k_max = 2
    out = generate(
        independent[0], sampler, method="adaptive", budget=1e6, max_new_tokens=4, order="confidence"
    )
    assert out.teacher_passes.tolist() == [2]


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("adaptive", dict(budget=-0.1), "budget must be 0"),
        ("klass", dict(threshold=1.5), r"threshold must lie in \(0, 1\]"),
        ("klass", dict(kl=0), "kl must be positive"),
        ("klass", dict(history=0), "history must be"),
    ],
)
def test_bad_settings_are_refused(independent, method, settings, said):
    with pytest.raises(UserError, match=said):
        generate(
            independent[0],
            OracleSampler(independent[0]),
            method=method,
            max_new_tokens=4,
            **settings,
        )

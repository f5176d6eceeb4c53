"""Stop rules reproduce their papers' definitions on hand-computed cases."""

from __future__ import annotations

import pytest
import torch

from jointsampler import UserError, generate

from .analytic import OracleSampler, TableTeacher

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
    blocks = [[] for _ in range(int(out.block.max()) + 1)]
    for position, block in zip(out.order[0].tolist(), out.block[0].tolist(), strict=True):
        blocks[block].append(position)
    return blocks


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

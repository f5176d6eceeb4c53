"""Stop rules follow their papers' definitions on hand-computed cases, with and without an update."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from jointsampler import Refresh, UserError, generate
from jointsampler.decoding.methods import METHODS
from jointsampler.updates.refresh import NATS_PER_NAT
from tests.support.analytic import OracleUpdate, TableTeacher

# Four independent positions over three symbols, with these confidences.
CONFIDENCES = (0.95, 0.9, 0.8, 0.5)
EACH = torch.tensor([(c, (1 - c) * 0.75, (1 - c) * 0.25) for c in CONFIDENCES])
UPDATES = {"none": lambda _: None, "oracle": OracleUpdate, "refresh": lambda _: Refresh(4)}


@pytest.fixture(scope="module")
def independent():
    words = itertools.product(range(3), repeat=4)
    rows = EACH.double().tolist()
    return TableTeacher(
        {word: math.prod(rows[i][s] for i, s in enumerate(word)) for word in words}, 3
    )


def rounds_of(out):
    """Positions that each round of the first row revealed, as a list of lists."""
    rounds = [[] for _ in range(int(out.round.max()) + 1)]
    for position, number in zip(out.order[0].tolist(), out.round[0].tolist(), strict=True):
        rounds[number].append(position)
    return rounds


def rounds(teacher, method, update=None, **settings):
    out = generate(teacher, update, method=method, max_new_tokens=4, order="confidence", **settings)
    return rounds_of(out)


@pytest.mark.parametrize("update", UPDATES)
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
    independent, update, threshold, expected
):
    made = UPDATES[update](independent)
    assert rounds(independent, "threshold", made, threshold=threshold) == expected


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize(
    ("factor", "expected"),
    # (n + 1)(1 - c_n) of the first round: n = 2: 0.3, n = 3: 0.8, n = 4: 2.5.
    [
        (0.31, [[0, 1], [2], [3]]),
        (0.81, [[0, 1, 2], [3]]),
        (2.6, [[0, 1, 2, 3]]),
        (0.29, [[0], [1], [2], [3]]),
    ],
)
def test_factor_reveals_the_largest_n_that_its_inequality_allows(
    independent, update, factor, expected
):
    assert rounds(independent, "factor", UPDATES[update](independent), factor=factor) == expected


@pytest.mark.parametrize("update", UPDATES)
def test_entropy_bound_compares_the_sum_without_the_largest(independent, update):
    made = UPDATES[update](independent)
    h = -(EACH * EACH.log()).sum(-1)
    assert h.tolist() == sorted(h.tolist())  # it rises as confidence falls
    just = (h[0] + h[1]).item()  # the sum over the first three without the largest
    assert rounds(independent, "entropy_bound", made, bound=just + 1e-4)[0] == [0, 1, 2]
    assert rounds(independent, "entropy_bound", made, bound=just - 1e-4)[0] == [0, 1]
    assert rounds(independent, "entropy_bound", made, bound=0.0) == [[0], [1], [2], [3]]


def test_a_rule_reads_the_conditionals_after_the_update():
    """Position 1 copies position 0: after an update it is certain, in the marginals it is not."""
    copy = TableTeacher({(0, 0): 0.8, (1, 1): 0.2}, 2)
    settings = dict(method="threshold", threshold=0.95, max_new_tokens=2)
    assert rounds_of(generate(copy, None, **settings)) == [[0], [1]]
    for update in (OracleUpdate(copy), Refresh(2)):
        assert rounds_of(generate(copy, update, **settings)) == [[0, 1]]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(0.0, [[0], [1], [2], [3]]), (0.5, [[0, 1], [2, 3]]), (9.0, [[0, 1, 2, 3]])],
)
def test_adaptive_ends_a_round_before_the_token_that_would_pass_the_budget(
    independent, budget, expected
):
    """An estimate of 0.4 nats per reveal already made in the round; a refused reveal costs its update."""
    update = OracleUpdate(independent)
    update.estimator = lambda seen: 0.4 * seen.depth.float()
    out = generate(
        independent,
        update,
        method="adaptive",
        budget=budget,
        max_new_tokens=4,
        order="confidence",
    )
    assert rounds_of(out) == expected
    assert out.update_passes.tolist() == [3]  # one after every reveal but the last


def test_adaptive_never_goes_past_the_round_that_the_sampler_was_trained_for(independent):
    settings = dict(method="adaptive", budget=1e6, max_new_tokens=4)
    out = generate(independent, OracleUpdate(independent, k_max=2), **settings)
    assert out.teacher_passes.tolist() == [2]
    out = generate(independent, Refresh(4), **settings)  # it has no such limit
    assert out.teacher_passes.tolist() == [1]


def test_a_refresh_expects_an_error_that_grows_with_age_and_with_the_entropy(independent):
    """The entropies rise in the order of the reveals, and nothing follows from what was revealed."""
    nats = [-sum(p * math.log(p) for p in row) for row in EACH.tolist()]
    expected = [NATS_PER_NAT / 4 * nats[depth] * depth**0.5 for depth in range(4)]
    assert expected == sorted(expected)
    settings = dict(method="adaptive", max_new_tokens=4)
    for longest in (2, 3):
        budget = (expected[longest - 1] + expected[longest]) / 2
        first, *_ = rounds_of(generate(independent, Refresh(4), budget=budget, **settings))
        assert len(first) == longest


def test_a_refresh_expects_no_error_where_the_next_token_is_certain():
    copies = TableTeacher({(0, 0, 0): 0.5, (1, 1, 1): 0.5}, 2)
    out = generate(copies, Refresh(3), method="adaptive", max_new_tokens=3, budget=1e-6)
    assert out.teacher_passes.tolist() == [1]


RULES = {
    "threshold": {"threshold": 0.3},
    "factor": {"factor": 1.5},
    "entropy_bound": {"bound": 1.0},
    "adaptive": {"budget": 0.05},
}


@pytest.mark.parametrize(
    ("method", "name"),
    [*itertools.product(RULES, ["joint", "refresh"]), *itertools.product([*RULES][:3], ["none"])],
)
def test_rows_leave_a_round_on_their_own_and_the_batch_does_not_matter(tiny, shipped, method, name):
    update = {"none": None, "joint": shipped, "refresh": Refresh(4)}[name]
    kwargs = {"method": method, **RULES[method], "num_samples": 6, "max_new_tokens": 10}
    together = generate(tiny, update, batch_size=6, **kwargs)
    assert len(together.teacher_passes.unique()) > 1
    assert 0 < together.teacher_passes.min() < 10
    assert bool((together.update_passes > 0).any()) == (name != "none")
    apart = generate(tiny, update, batch_size=1, **kwargs)
    for field in ("sequences", "order", "round", "teacher_passes"):
        assert torch.equal(getattr(together, field), getattr(apart, field)), field


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"method": "threshold", "threshold": 0.0}, "threshold must lie in"),
        ({"method": "threshold", "threshold": 1.5}, "threshold must lie in"),
        ({"method": "factor", "factor": -1.0}, "factor must be positive"),
        ({"method": "entropy_bound", "bound": -0.1}, "bound must be 0 nats or more"),
        ({"method": "adaptive", "update": Refresh(), "budget": -0.1}, "budget must be 0"),
        ({"method": "threshold", "treshold": 0.9}, "did you mean 'threshold'"),
        ({"method": "marginal", "threshold": 0.9}, "has no setting 'threshold'"),
        ({"method": "adaptive"}, "needs an update"),
        ({"method": "joint"}, "needs an update"),
        ({"method": "refresh", "update": "sampler"}, "reruns the teacher's own layers"),
        ({"method": "threshold", "update": 3}, "An update is a JointSampler, a Refresh or None, not int"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_with_one_sentence(tiny, trained_like, kwargs, message):
    if kwargs.get("update") == "sampler":
        kwargs = kwargs | {"update": trained_like}
    with pytest.raises(UserError, match=message) as caught:
        generate(tiny, max_new_tokens=4, **kwargs)
    assert "\n" not in str(caught.value)


def test_the_methods_are_these():
    assert list(METHODS) == [
        "sequential", "marginal", "joint", "refresh", "lossless", "lossless_tokens",
        "adaptive", "threshold", "factor", "entropy_bound",
    ]  # fmt: skip

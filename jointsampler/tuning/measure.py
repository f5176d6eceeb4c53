"""Measure the candidates on the machine at hand: seconds of each step, nats of each walk.

Within a limit of time, the work goes where the pick may fall:

1. Column policies are compared at one number of columns; those near the best go on.
2. A full pass and all updates are timed, interleaved.
3. The published stop rules walk once each, then every update, shorter rounds first. One
   that a faster one beats clearly at some k walks no longer rounds.
4. What time is left goes to further trajectories of the candidates near the frontier.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch

from ..columns import POLICIES
from ..errors import UserError
from ..evaluation.cost import step_seconds
from ..evaluation.stats import EXACT
from ..sampler import JointSampler
from ..teachers.columns import check_rerun
from ..teachers.protocol import Teacher
from ..updates import NoUpdate, Refresh, Update, joint_update
from .candidates import (
    RULES,
    SCREENED,
    Rounds,
    RuleCase,
    UpdateCase,
    column_counts,
    round_lengths,
    seconds_by_rule,
    seconds_per_token,
    walked,
)
from .fidelity import Job, Walks
from .picking import CLEARLY, beaten
from .results import Candidate, Tuning
from .situation import Situation

TOKENS = 192  # of a turn: short trajectories tell less, each of them
FEWEST, MOST = 2, 8  # trajectories of a turn
OVER_PROMPTS = 4  # the fewest where there are several prompts, which differ more than samples do
TURNS = 4
REPEATS = 9  # of each timed step, fewer where they would take a third of the limit
LOST = 0.5  # nats per token beyond which more trajectories decide nothing
_NONE = UpdateCase("none")
SHORTEST = 4  # tokens of a response that can be timed


def measure(
    teacher: Teacher,
    situation: Situation,
    samplers: Mapping[str, JointSampler],
    prompts: list[list[int]],
    key: dict[str, Any],
    limit: float,
    progress: Callable[[str], None] = lambda said: None,
) -> Tuning:
    """The candidates of ``teacher`` in ``situation``, with their seconds and nats.

    ``samplers``: joint samplers by fingerprint, each one more candidate; ``prompts``:
    token ids that the trajectories follow; ``limit``: seconds after which no further
    walk begins; ``progress`` is called with a line per stage.
    :func:`check` has passed. Raises UserError: too little memory on the device.
    """
    tuner = _Tuner(teacher, situation, samplers, prompts, limit, progress)
    try:
        return tuner.run(key)
    except torch.OutOfMemoryError:
        raise UserError(
            f"A batch of {situation.batch} rows of {situation.positions} positions and the teacher "
            f"exceed the memory of {teacher.device}: choose a smaller batch or length."
        ) from None


def check(situation: Situation, limit: float) -> None:
    """UserError for a batch, length or limit that cannot be measured."""
    if situation.batch < 1:
        raise UserError(f"A batch has at least 1 row, not {situation.batch}.")
    if situation.length < SHORTEST:
        raise UserError(f"A tuned response has at least {SHORTEST} tokens, not {situation.length}.")
    if not limit > 0:
        raise UserError(f"The time limit is a positive number of seconds, not {limit}.")


def trajectories(length: int, prompts: int) -> int:
    """Trajectories of a turn, of ``length`` tokens, over that many prompts."""
    fewest = FEWEST if prompts == 1 else OVER_PROMPTS
    return min(max(TOKENS // length, fewest), MOST)


class _Tuner:
    def __init__(
        self,
        teacher: Teacher,
        situation: Situation,
        samplers: Mapping[str, JointSampler],
        prompts: list[list[int]],
        limit: float,
        progress: Callable[[str], None],
    ):
        self.teacher, self.situation, self.samplers = teacher, situation, samplers
        self.limit, self.progress = limit, progress
        self.begin = time.perf_counter()
        self.cases: list[UpdateCase] = []
        self.full = self.single = 0.0  # seconds of a full pass, on the batch and on one row
        self.later: dict[UpdateCase, float] = {}
        self.walks = Walks(
            teacher, prompts, situation.length, situation.order,
            situation.temperature or 1.0,  # greedy: no finite KL, so that of temperature 1
            seed=0, per_turn=trajectories(situation.length, len(prompts)),
        )  # fmt: skip
        self.levels = sorted({walked(k, situation.length) for k in round_lengths(situation.length)})

    def run(self, key: dict[str, Any]) -> Tuning:
        self.cases = self._cases(self._policies())
        self.progress(f"timing {len(self.cases)} updates")
        self._time_steps()
        complete = self._first_turn()
        self._further_turns()
        return Tuning(
            key=key,
            predicted_for=None,
            full_seconds=self.full,
            single_seconds=self.single,
            candidates=[self._candidate(*pair) for pair in [(_NONE, 1), *self._pairs()]],
            limit=self.limit,
            seconds=self._spent(),
            walks=self.walks.made,
            complete=complete,
        )

    def _spent(self) -> float:
        return time.perf_counter() - self.begin

    def _walk(self, case: UpdateCase, rounds: Rounds) -> bool:
        """One more turn of a job; False, without it, once the time is over."""
        if self._spent() > self.limit:
            return False
        self.walks.add((case, rounds), self._update(case))
        return True

    def _update(self, case: UpdateCase) -> Update:
        if case.update == "none":
            return NoUpdate()
        if case.update == "refresh":
            return Refresh(case.columns, case.policy)
        return joint_update(self.samplers[case.sampler])

    def _policies(self) -> list[str]:
        """The column policies that are worth all numbers of columns; none if no column can be rerun."""
        try:
            check_rerun(self.teacher)
        except UserError:
            return []
        if SCREENED not in column_counts(self.situation.positions):
            return list(POLICIES)
        k = self.levels[0]
        nats: dict[str, float] = {}
        for name in POLICIES:
            case = UpdateCase("refresh", SCREENED, name)
            if self._walk(case, k):
                nats[name] = self.walks.nats(case, k).value
        if not nats:
            return list(POLICIES)[:1]
        return [name for name, found in nats.items() if found <= CLEARLY * min(nats.values())]

    def _cases(self, policies: list[str]) -> list[UpdateCase]:
        found = [UpdateCase("none")]
        for name, sampler in self.samplers.items():
            config = sampler.config
            at_columns = (config.columns, config.policy) if config.depth else (None, None)
            found.append(UpdateCase("joint", *at_columns, name))
        for count in column_counts(self.situation.positions):
            found += [UpdateCase("refresh", count, policy) for policy in policies]
        return found

    def _time_steps(self) -> None:
        """Medians of a full pass, ``full`` and ``single``, and of every update, ``later``."""
        situation = self.situation
        full, later = step_seconds(
            self.teacher, [self._update(case) for case in self.cases], situation.batch,
            situation.length, situation.order, REPEATS, prompt=situation.prompt,
            limit=self.limit / 3,
        )  # fmt: skip
        self.full = self.single = median(full)
        if situation.batch > 1:
            one, _ = step_seconds(
                self.teacher, [], 1, situation.length, situation.order, REPEATS,
                prompt=situation.prompt, limit=self.limit / 9,
            )  # fmt: skip
            self.single = min(median(one), self.full)
        self.later = {case: median(each) for case, each in zip(self.cases, later, strict=True)}

    def _first_turn(self) -> bool:
        """Walks of every update that may be on the frontier; False where the limit left some out."""
        self.progress(f"walking with {len(RULES)} stop rules")
        if not all(self._walk(_NONE, rule) for rule in RULES):
            return False
        # A slower one than sequential, which is exact, needs no walk.
        alive = [case for case in self.cases if self.later[case] < self.full]
        for k in self.levels:
            self.progress(f"walking with {len(alive)} updates in rounds of {k}")
            for case in alive:
                if (case, k) not in self.walks.found and not self._walk(case, k):
                    return False
            level = [self._candidate(case, k) for case in alive]
            alive = [c for c, mine in zip(alive, level, strict=True) if not beaten(mine, level)]
        return True

    def _further_turns(self) -> None:
        """More trajectories for the candidates that are on the frontier or near it."""
        for _ in range(1, TURNS):
            jobs: dict[Job, None] = {}  # in order, without repetition
            every = {pair: self._candidate(*pair) for pair in self._pairs()}
            for (case, rounds), mine in every.items():
                known = mine.nats is not None and mine.nats.value < LOST
                if known and not beaten(mine, list(every.values())):
                    whole = isinstance(rounds, RuleCase)
                    jobs[case, rounds if whole else walked(rounds, self.situation.length)] = None
            self.progress(f"{len(jobs)} further walks near the frontier")
            for case, rounds in jobs:
                self._walk(case, rounds)

    def _pairs(self) -> list[Job]:
        """Every candidate but ``sequential``. A rule's seconds come from its walk, so it needs one."""
        ks = round_lengths(self.situation.length)
        rules = [rule for rule in RULES if (_NONE, rule) in self.walks.found]
        return [*((case, k) for case in self.cases for k in ks), *((_NONE, rule) for rule in rules)]

    def _candidate(self, case: UpdateCase, rounds: Rounds) -> Candidate:
        batch, length = self.situation.batch, self.situation.length
        update = self.later[case]
        if isinstance(rounds, RuleCase):
            rule, settings = rounds.method, {rounds.setting: rounds.value}
            reveals = self.walks.reveals(case, rounds)
            token = seconds_by_rule(self.full, self.single, update, reveals, length, batch)
        else:
            rule, settings, reveals = None, {"k": rounds}, None
            token = seconds_per_token(self.full, update, rounds, length, batch)
        return Candidate(
            update=case.update,
            columns=case.columns,
            policy=case.policy,
            sampler=case.sampler,
            rule=rule,
            settings=settings,
            reveals=reveals,
            update_seconds=update,
            seconds_per_token=token,
            speedup=self.full / batch / token,
            nats=EXACT if rounds == 1 else self.walks.nats(case, rounds),
        )

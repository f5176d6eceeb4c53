"""One round: reveals from the states of a full pass, and the updates between them.

``loop.py`` opens rounds, ``step.py`` says which reveals share an update, ``scoring.py``
which position is next. No operation here waits for the device, unless a rule is asked
row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from .. import rng
from ..teachers.protocol import Teacher
from ..updates import Opening, Reveal, foresee
from .cache import visible
from .canvas import Canvas
from .sampling import draw, probabilities
from .scoring import Scoreboard, Scorer
from .step import Step, of_ready
from .stops import Candidate
from .strategy import Choice, Script, Strategy
from .verify import Draft


@dataclass(frozen=True)
class Course:
    """What all rounds on one canvas share."""

    strategy: Strategy
    canvas: Canvas
    script: Script
    before: Callable[[Choice], None] | None  # observers: see ``loop.Decoder``
    after: Callable[[Canvas], None] | None
    uniform: Tensor  # [B, L] float64, one draw per position: a reveal only looks its own up

    @classmethod
    def of(
        cls,
        strategy: Strategy,
        canvas: Canvas,
        script: Script,
        before: Callable[[Choice], None] | None,
        after: Callable[[Canvas], None] | None,
    ) -> Course:
        places = torch.arange(canvas.length, device=canvas.ids.device)
        uniform = rng.uniform(strategy.seed, canvas.rows[:, None], places[None], rng.TOKEN)
        return cls(strategy, canvas, script, before, after, uniform)

    @property
    def scores(self) -> bool:
        """Whether positions are scored: not for a recorded order, unless a rule or the update reads them."""
        strategy = self.strategy
        asked = strategy.rule.asks or strategy.update.ranks or strategy.step is not None
        return self.script.order is None or asked


class OpenRound:
    """B rows after the full pass ``opening``, with at most ``left`` masked positions each."""

    def __init__(
        self, course: Course, teacher: Teacher, opening: Opening, left: int, draft: Draft | None
    ):
        strategy, canvas = course.strategy, course.canvas
        self._course, self._teacher, self._left, self._draft = course, teacher, left, draft
        self._strategy, self._canvas = strategy, canvas
        self._each = torch.arange(len(canvas.rows), device=canvas.ids.device)
        self._state = strategy.update.begin(teacher, opening, visible(teacher, canvas))
        self._board = self._step = None
        if course.scores:
            scorer = Scorer(teacher, canvas, strategy.order, strategy.seed)
            self._board = Scoreboard(scorer, self._state.states, left)
        if strategy.step is not None:
            self._step = Step(strategy.step, self._each)
        self._memory: Any = None  # the rule's
        self._last: Tensor | None = None  # [B] int64, each row's last reveal, in the response

    def run(self, in_round: Tensor) -> None:
        """Reveal in the rows ``in_round`` [B] until the rule ends their round."""
        rule, step = self._strategy.rule, self._step
        # Rows that wait for an update make their reveals later than others.
        for reveal in count() if step is not None else range(min(rule.limit, self._left)):
            ready = None
            if reveal > 0:
                in_round = in_round & self._canvas.unfinished()
                most = self._left - min(reveal if step is None else 1, self._strategy.least)
                if step is not None:
                    in_round = in_round & (step.made < rule.limit)
                    ready = self._ready(in_round, most)
                if ready is None:
                    # Asking whether any row is left costs less than the update that it may save.
                    if (rule.asks or step is not None) and not bool(in_round.any()):
                        break
                    self._advance(in_round, most)
            choice = self._choose(in_round, reveal, ready)
            in_round = (
                choice.active if ready is None else torch.where(ready, choice.active, in_round)
            )
            self._reveal(choice)

    def _ready(self, in_round: Tensor, most: int) -> Tensor | None:
        """The rows that reveal once more before the next update; None where it is due in all."""
        if self._step.full:
            return None
        nowhere = torch.empty(len(in_round), 0, dtype=torch.long, device=in_round.device)
        self._board.moved(self._state.states, nowhere, most)  # the next best of the same scores
        recorded = self._recorded()
        logits = self._board.best.logits if recorded is None else recorded[1]
        return self._step.ready(in_round, logits)

    def _recorded(self) -> tuple[Tensor, Tensor] | None:
        """The recorded order's next positions [B], and the logits [B, V] there; None without one."""
        order = self._course.script.order
        if order is None:
            return None
        slot = self._canvas.revealed.clamp_max(order.shape[1] - 1)
        position = order[self._each, slot].clamp_min(0)
        states = self._state.states[self._each, self._canvas.start + position]
        return position, self._teacher.logits(states)

    def _advance(self, in_round: Tensor, most: int) -> None:
        """The update after a reveal or a step; ``most`` bounds a row's masked positions."""
        canvas, update, board = self._canvas, self._strategy.update, self._board
        masked = scores = others = None
        if self._step is not None:
            others = self._step.others(canvas.start)
            self._step.updated()
        if update.ranks:
            masked, scores = canvas.candidates_on_canvas(), board.on_canvas()
        last = canvas.start + self._last
        moved = self._state.advance(Reveal(canvas.ids, last, masked, scores, canvas.start, others))
        # An update that moved no state computed nothing.
        if update.passes and (moved is None or moved.shape[1]):
            canvas.update_passes += in_round
        if board is not None:
            board.moved(self._state.states, moved, most)

    def _choose(self, in_round: Tensor, reveal: int, ready: Tensor | None) -> Choice:
        """What is revealed next, in the rows that the rule leaves in the round.

        ready: [B] the rows that do not wait for an update; None where none waits.
        """
        rule, recorded, step = self._strategy.rule, self._recorded(), self._step
        active = in_round if ready is None else ready
        position = logits = estimate = None
        if recorded is None or rule.asks:  # the rule sees the method's own position
            position, logits = self._board.best.position, self._board.best.logits
            made = reveal if step is None else step.made
            if rule.estimates and reveal > 0:
                estimate = self._estimate(position, logits, made)
            candidate = Candidate(logits, made, estimate)
            if reveal == 0:
                self._memory = rule.begin(candidate)
            elif rule.asks:
                stays, memory = rule.goes_on(self._memory, candidate)
                active, self._memory = active & stays, of_ready(ready, memory, self._memory)
        if recorded is not None:
            position, logits = recorded
        choice = Choice(position, logits, active, reveal, estimate)
        if self._draft is not None and reveal == 0:
            choice = replace(choice, position=self._draft.first_position(position))
        return choice

    def _estimate(self, position: Tensor, logits: Tensor, made: int | Tensor) -> Tensor:
        """[B] nats that the update expects a reveal at ``position`` [B] to add, after ``made`` in the round."""
        canvas, state, each = self._canvas, self._state, self._each
        here, before = canvas.start + position, canvas.start + self._last
        depth = torch.full_like(position, made) if isinstance(made, int) else made
        states, opening = state.states[each, here], state.opening[each, here]
        return state.estimate(
            foresee(self._teacher, states, opening, canvas.ids, here, before, depth, logits)
        )

    def _reveal(self, choice: Choice) -> None:
        """Draw or look up the token of ``choice``, and write it."""
        course, canvas, draft = self._course, self._canvas, self._draft
        if course.before is not None:
            course.before(choice)
        probs = None
        if course.script.tokens is None:
            probs = probabilities(choice.logits, self._strategy.sampling)
            token = draw(probs, self._draws(choice.position))
        else:
            token = course.script.tokens[self._each, choice.position]
        if draft is not None and choice.reveal == 0:
            token = draft.first_token(token)
        canvas.reveal(choice.position, token, choice.active)
        if draft is not None:
            draft.add(choice.position, token, probs, choice.active)
        if course.after is not None:
            course.after(canvas)
        if self._board is not None:
            self._board.revealed()
        self._last = choice.position
        if self._step is not None:
            self._last = self._step.revealed(choice.position, choice.logits, choice.active)

    def _draws(self, position: Tensor) -> Tensor:
        """[B] float64: the uniform numbers of the tokens at ``position`` [B]."""
        if self._draft is None:
            return self._course.uniform[self._each, position]
        # A position that is drafted again must not meet the same number: see verify.py.
        canvas, seed = self._canvas, self._strategy.seed
        return rng.uniform(seed, canvas.rows, position, rng.TOKEN, self._draft.round)

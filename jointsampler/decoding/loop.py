"""The decoding loop: a full pass opens a round, reveals and updates follow until the round stops.

All methods and all meters run this loop, and so share order, suppression, random
streams and accounting. Rows leave a round on their own. The public call is in
``generate.py``; the meters are in ``evaluation/kl.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import rng
from ..teachers.protocol import Teacher
from ..updates import Opening, Reveal, Round, Update, foresee, full_pass
from .cache import CacheKind, cached, visible
from .canvas import Canvas
from .orders import OrderPolicy
from .sampling import Sampling, draw, probabilities
from .scoring import Scoreboard, Scorer
from .stops import Candidate, StopRule
from .verify import Draft, Verification, Verified, verify


@dataclass(frozen=True)
class Strategy:
    """Everything that decides how rows are revealed, except the rows."""

    update: Update
    rule: StopRule
    order: OrderPolicy
    sampling: Sampling
    seed: int
    verification: Verification | None = None

    @property
    def least(self) -> int:
        """The fewest reveals of a round in a row with that many masks, known without the device."""
        fixed = not self.rule.asks and self.verification is None
        return self.rule.limit if fixed else 1


@dataclass(frozen=True)
class Script:
    """Recorded choices that replace the method's own; None leaves them to the method."""

    order: Tensor | None = None  # [B, L] int64, response position of each row's r-th reveal
    tokens: Tensor | None = None  # [B, L] int64, the token at each response position


@dataclass(frozen=True)
class Choice:
    """A reveal that is about to be made in B rows, for observers."""

    position: Tensor  # [B] int64, in the response
    logits: Tensor  # [B, V] float32 there, untempered
    active: Tensor  # [B] bool, rows in which it is made
    reveal: int  # reveals of the round before it
    estimate: Tensor | None  # [B] nats of KL that the update expected it to add


class Decoder:
    """One strategy on one canvas: rounds until nothing is masked.

    ``before`` is called with every :class:`Choice` while the canvas is still as it
    was, ``after`` with the canvas after every reveal and every verification.
    """

    def __init__(
        self,
        teacher: Teacher,
        strategy: Strategy,
        canvas: Canvas,
        script: Script | None = None,
        before: Callable[[Choice], None] | None = None,
        after: Callable[[Canvas], None] | None = None,
    ):
        self.teacher, self.strategy, self.canvas = teacher, strategy, canvas
        self.script, self.before, self.after = script or Script(), before, after
        self._each = torch.arange(len(canvas.rows), device=canvas.ids.device)
        # One draw per position [B, L], made once: a reveal only looks its own up.
        places = torch.arange(canvas.length, device=canvas.ids.device)
        self._uniform = rng.uniform(strategy.seed, canvas.rows[:, None], places[None], rng.TOKEN)
        # A recorded order needs no scores, unless the rule or the update reads them.
        self._scores = self.script.order is None or strategy.rule.asks or strategy.update.ranks

    @torch.inference_mode()
    def run(
        self, block_length: int | None = None, cache: CacheKind = "none", stop_at_end: bool = False
    ) -> None:
        """Reveal every masked position of the canvas, in place.

        With ``block_length`` the response is finished block by block, left to right
        (semi-autoregressive, as LLaDA does); ``cache`` names what is kept of the
        finished blocks (``cache.py``). With ``stop_at_end`` a row ends where nothing
        before its first end token is masked; the positions behind it stay unrevealed.
        """
        teacher, canvas = self.teacher, self.canvas
        length = block_length or canvas.length
        ends = torch.tensor(teacher.end_ids, device=canvas.ids.device) if stop_at_end else None
        for begin in range(0, canvas.length, length):
            canvas.open(begin, begin + length)
            if bool(canvas.unfinished().any()):
                source = cached(teacher, canvas, cache, begin, begin + length)
                self._finish_open(source, length, ends)
        if stop_at_end:
            canvas.fill_tails(teacher.pad_id if teacher.eos_id is None else teacher.eos_id)

    @torch.inference_mode()
    def run_reveals(self, masked: int, count: int) -> None:
        """Reveal ``count`` of every row's ``masked`` positions: for timing. A fixed k divides count."""
        self._finish_open(self.teacher, masked, None, until=masked - count)

    def _finish_open(
        self,
        teacher: Teacher,
        left: int,
        ends: Tensor | None,
        until: int = 0,
        verified: Verified | None = None,
    ) -> None:
        """Rounds until at most ``until`` of ``left`` open positions a row are unrevealed.

        ``verified``: what the verification before left to the first of these rounds.
        """
        canvas, strategy = self.canvas, self.strategy
        while left > until:
            in_round = canvas.unfinished()
            rows = int(in_round.sum())  # one host question per round
            if rows == 0:
                return
            if 2 * rows <= len(in_round) and self._may_part(teacher):
                self._finish_rest(in_round, left, ends, until, verified)
                return
            opening = verified.opening if verified else self._opening(teacher)
            draft = Draft.empty(canvas, in_round, verified) if strategy.verification else None
            self._round(teacher, opening, in_round, left, draft)
            if draft is not None:
                scorer = Scorer(teacher, canvas, strategy.order, strategy.seed)
                verified = verify(
                    scorer, draft, strategy.verification, strategy.sampling, left,
                    strategy.update.keeps,
                )  # fmt: skip
                if self.after is not None:
                    self.after(canvas)
            if ends is not None:
                canvas.end_rows(ends)
            left -= strategy.least

    def _may_part(self, teacher: Teacher) -> bool:
        """Whether finished rows may leave: nothing else refers to the rows of the whole canvas."""
        observed = self.before is not None or self.after is not None
        scripted = self.script.order is not None or self.script.tokens is not None
        return teacher is self.teacher and not observed and not scripted

    def _finish_rest(
        self, rest: Tensor, left: int, ends: Tensor | None, until: int, verified: Verified | None
    ) -> None:
        """:meth:`_finish_open` on the rows ``rest`` [B] bool alone: finished rows would only cost."""
        index = rest.nonzero()[:, 0]
        part = Decoder(self.teacher, self.strategy, self.canvas.select(index))
        verified = verified and verified.select(index)
        part._finish_open(self.teacher, left, ends, until, verified)
        self.canvas.put(index, part.canvas)

    def _opening(self, teacher: Teacher) -> Opening:
        """The full pass that opens a round."""
        canvas = self.canvas
        ask = canvas.unfinished()
        canvas.teacher_passes += ask
        canvas.teacher_rows += ask
        return full_pass(teacher, canvas.ids, canvas.attention_mask, self.strategy.update.keeps)

    def _round(
        self,
        teacher: Teacher,
        opening: Opening,
        in_round: Tensor,
        left: int,
        draft: Draft | None,
    ) -> None:
        """Reveals of one round, in the rows ``in_round`` [B] until the rule ends theirs."""
        canvas, strategy = self.canvas, self.strategy
        rule, update = strategy.rule, strategy.update
        state = update.begin(teacher, opening, visible(teacher, canvas))
        scorer = Scorer(teacher, canvas, strategy.order, strategy.seed)
        board = Scoreboard(scorer, state.states, left) if self._scores else None
        memory: Any = None
        last: Tensor | None = None
        for reveal in range(min(rule.limit, left)):
            if reveal > 0:
                in_round = in_round & canvas.unfinished()
                # Asking whether any row is left costs less than the update that it may save.
                if rule.asks and not bool(in_round.any()):
                    break
                self._advance(state, board, last, in_round, left - min(reveal, strategy.least))
            choice, memory = self._choose(teacher, state, board, memory, in_round, reveal, last)
            in_round = choice.active
            if draft is not None and reveal == 0:
                choice = replace(choice, position=draft.first_position(choice.position))
            self._reveal(choice, draft)
            if board is not None:
                board.revealed()
            last = choice.position

    def _advance(
        self, state: Round, board: Scoreboard | None, last: Tensor, in_round: Tensor, most: int
    ) -> None:
        """The update after the reveal at ``last`` [B]; ``most`` bounds a row's masked positions."""
        canvas, update = self.canvas, self.strategy.update
        masked = scores = None
        if update.ranks:
            masked, scores = canvas.candidates_on_canvas(), board.on_canvas()
        moved = state.advance(Reveal(canvas.ids, canvas.start + last, masked, scores, canvas.start))
        # An update that moved no state computed nothing: one of several reveals in a row.
        if update.passes and (moved is None or moved.shape[1]):
            canvas.update_passes += in_round
        if board is not None:
            board.moved(state.states, moved, most)

    def _choose(
        self,
        teacher: Teacher,
        state: Round,
        board: Scoreboard | None,
        memory: Any,
        in_round: Tensor,
        reveal: int,
        last: Tensor | None,
    ) -> tuple[Choice, Any]:
        """What is revealed next, in the rows that the rule leaves in the round; and the rule's memory."""
        rule, recorded, start = self.strategy.rule, self.script.order, self.canvas.start
        position = logits = estimate = None
        if recorded is None or rule.asks:  # the rule sees the method's own position
            position, logits = board.best.position, board.best.logits
            if rule.estimates and reveal > 0:
                estimate = self._estimate(teacher, state, position, logits, last, reveal)
            candidate = Candidate(logits, reveal, estimate)
            if reveal == 0:
                memory = rule.begin(candidate)
            elif rule.asks:
                stays, memory = rule.goes_on(memory, candidate)
                in_round = in_round & stays
        if recorded is not None:
            slot = self.canvas.revealed.clamp_max(recorded.shape[1] - 1)
            position = recorded[self._each, slot].clamp_min(0)
            logits = teacher.logits(state.states[self._each, start + position])
        return Choice(position, logits, in_round, reveal, estimate), memory

    def _estimate(
        self,
        teacher: Teacher,
        state: Round,
        position: Tensor,
        logits: Tensor,
        last: Tensor,
        reveal: int,
    ) -> Tensor:
        """[B] nats that the update expects a reveal at ``position`` [B] to add."""
        canvas, each = self.canvas, self._each
        here, before = canvas.start + position, canvas.start + last
        depth = torch.full_like(position, reveal)
        states, opening = state.states[each, here], state.opening[each, here]
        return state.estimate(
            foresee(teacher, states, opening, canvas.ids, here, before, depth, logits)
        )

    def _reveal(self, choice: Choice, draft: Draft | None) -> None:
        """Draw or look up the token of ``choice``, and write it."""
        canvas, strategy = self.canvas, self.strategy
        if self.before is not None:
            self.before(choice)
        probs = None
        if self.script.tokens is None:
            probs = probabilities(choice.logits, strategy.sampling)
            token = draw(probs, self._draws(choice.position, draft))
        else:
            token = self.script.tokens[self._each, choice.position]
        if draft is not None and choice.reveal == 0:
            token = draft.first_token(token)
        canvas.reveal(choice.position, token, choice.active)
        if draft is not None:
            draft.add(choice.position, token, probs, choice.active)
        if self.after is not None:
            self.after(canvas)

    def _draws(self, position: Tensor, draft: Draft | None) -> Tensor:
        """[B] float64: the uniform numbers of the tokens at ``position`` [B]."""
        if draft is None:
            return self._uniform[self._each, position]
        # A position that is drafted again must not meet the same number: see verify.py.
        canvas, seed = self.canvas, self.strategy.seed
        return rng.uniform(seed, canvas.rows, position, rng.TOKEN, draft.round)

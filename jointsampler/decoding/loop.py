"""The decoding loop: rounds until nothing is masked, each opened by a full pass.

All methods and all meters run this loop, and so share order, suppression, random
streams and accounting. Rows leave a round on their own. What happens inside a round is
in ``round.py``, the public call in ``generate.py``; the meters are in
``evaluation/kl.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..teachers.protocol import Teacher
from ..updates import Opening, full_pass
from .cache import CacheKind, cached
from .canvas import Canvas
from .round import Course, OpenRound
from .scoring import Scorer
from .strategy import Choice, Script, Strategy
from .verify import Draft, Verified, verify


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
        self._course = Course.of(strategy, canvas, script or Script(), before, after)

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
            OpenRound(self._course, teacher, opening, left, draft).run(in_round)
            if draft is not None:
                scorer = Scorer(teacher, canvas, strategy.order, strategy.seed)
                verified = verify(
                    scorer, draft, strategy.verification, strategy.sampling, left,
                    strategy.update.keeps,
                )  # fmt: skip
                if self._course.after is not None:
                    self._course.after(canvas)
            if ends is not None:
                canvas.end_rows(ends)
            left -= strategy.least

    def _may_part(self, teacher: Teacher) -> bool:
        """Whether finished rows may leave: nothing else refers to the rows of the whole canvas."""
        course = self._course
        observed = course.before is not None or course.after is not None
        scripted = course.script.order is not None or course.script.tokens is not None
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

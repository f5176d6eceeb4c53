"""Text unmasking live in a terminal, coloured by the round in which each token was revealed."""

from __future__ import annotations

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..decoding.canvas import Canvas
from ..teachers.protocol import Teacher

# Neighbouring rounds differ, and all colours can be read on dark and on light.
COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
MASK = "░"


class LiveView:
    """Shows up to ``rows`` rows of a canvas; call it after every reveal."""

    def __init__(self, teacher: Teacher, console: Console, rows: int = 4):
        self.teacher, self.rows = teacher, rows
        self.live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> LiveView:
        self.live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.live.stop()

    def __call__(self, canvas: Canvas) -> None:
        shown = [self.picture(canvas, row) for row in range(min(self.rows, len(canvas.rows)))]
        self.live.update(Text("\n\n").join(shown), refresh=True)

    def picture(self, canvas: Canvas, row: int) -> Text:
        """The prompt dim, revealed tokens in the colour of their round, masks as shaded cells."""
        decode = self.teacher.tokenizer.decode
        prompt = canvas.ids[row, : canvas.start]
        if canvas.attention_mask is not None:
            prompt = prompt[canvas.attention_mask[row, : canvas.start]]
        shown = [i for i in prompt.tolist() if i not in (self.teacher.bos_id, self.teacher.pad_id)]
        text = Text(decode(shown), style="dim")
        rounds = {}
        for position, number in zip(
            canvas.order[row].tolist(), canvas.round[row].tolist(), strict=True
        ):
            rounds[position] = number
        for position, token in enumerate(canvas.response(canvas.ids)[row].tolist()):
            if token == self.teacher.mask_id:
                text.append(MASK, style="dim")
            elif token in self.teacher.end_ids:
                text.append("⏹", style="dim")
                break
            else:
                colour = COLOURS[rounds.get(position, 0) % len(COLOURS)]
                text.append(decode([token]), style=colour)
        return text

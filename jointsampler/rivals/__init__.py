"""Published methods, from their papers' definitions, as contenders of one paired table.

Nothing in the library imports this folder but the command ``jointsampler compare
--rivals``. Every file cites its paper and says what differs; docs/rivals.md has the
table. All are re-implementations: no code of theirs is here. Order, prompts, seeds
and random streams are those of our own methods. The rules ``threshold``, ``factor``
and ``entropy_bound`` are stop rules (``decoding/stops``), because users decode with
them.
"""

from .contenders import LEARNED, Trained, contenders, train

__all__ = ["LEARNED", "Trained", "contenders", "train"]

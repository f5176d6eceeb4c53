"""The one exception type for mistakes a user can mend.

Every message is one sentence that says what is wrong, where, and what to do.
Entry points print it without a traceback and exit with status 2; anything else
that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: an unknown name, a value out of range, an unreadable file."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UserError:
    """An error for a name that is not in ``known``, with the nearest valid one."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UserError(f"Unknown {kind} {name!r}{hint}: choose one of {', '.join(names)}.")

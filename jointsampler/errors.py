"""The one exception type for mistakes a user can mend.

Every message is one sentence that says what is wrong, where, and what to do.
Entry points print it without a traceback and exit with status 2; anything else
that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from .uris import redacted, secrets_in


class UserError(ValueError):
    """Bad input: an unknown name, a value out of range, an unreadable file.

    URIs in the sentence lose user info and query, which may hold secrets.
    """

    def __init__(self, sentence: str = ""):
        super().__init__(redacted(str(sentence)))


def refuse_secrets(settings: Any) -> None:
    """UserError where a setting of the tree is a URI with credentials in it."""
    if found := secrets_in(settings):
        key, what, shown_uri = found
        raise UserError(
            f"{key}={shown_uri} holds {what}, which would be kept in results, in MLflow and in logs: take "
            "it out, and give credentials in the environment (AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, PGPASSWORD)."
        )


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UserError:
    """An error for a name that is not in ``known``, with the nearest valid one."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UserError(f"Unknown {kind} {name!r}{hint}: choose one of {', '.join(names)}.")

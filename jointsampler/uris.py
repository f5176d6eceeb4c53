"""Secrets in URIs: which settings are refused, and how a URI is shown.

Credentials belong into the environment, because a setting is repeated in results, in
the report, in MLflow, in logs and by Ray, which keeps the command line of every job.
``config/load.py`` refuses them where settings enter. :func:`shown` and
:func:`redacted` are for whatever is printed or kept.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
# A database takes its password from its own environment or files (PGPASSWORD, ~/.pgpass); its user
# name is no secret. Elsewhere a name alone can be a token.
_NAMED_USER = ("postgresql", "mysql", "mssql", "oracle")
# What a query may say: where storage is, not who asks. All other keys may hold a secret.
_OPEN_KEYS = {
    *("region", "scheme", "endpoint_override", "allow_bucket_creation", "allow_bucket_deletion"),
    *("force_virtual_addressing", "tls_ca_file_path", "project_id", "default_bucket_location"),
    *("retry_limit_seconds", "sslmode", "sslrootcert", "charset", "timeout", "driver", "mode"),
}


def _user_info(uri: str) -> tuple[str, str, str]:
    """(scheme with "://", user info, the rest) of a URI without its query."""
    scheme, mark, place = uri.partition("?")[0].partition("://")
    user, at, rest = place.rpartition("@")
    if at and (":" in user or "/" not in user):  # and not an @ in a folder's name
        return scheme + mark, user, rest
    return scheme + mark, "", place


def shown(location: object) -> str:
    """The location for messages and pages.

    A URI loses its user info and its query, because both may hold secrets.
    """
    text = str(location)
    if "://" not in text:
        return text
    scheme, _, rest = _user_info(text)
    return scheme + rest


def shown_all(data: Any) -> Any:
    """JSON-able ``data`` with every URI in it as :func:`shown`: for pages, results and trackers."""
    if isinstance(data, dict):
        return {key: shown_all(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [shown_all(value) for value in data]
    return shown(data) if isinstance(data, str) and _URI.fullmatch(data) else data


def redacted(text: str) -> str:
    """A sentence with every URI in it as :func:`shown`."""
    return _URI.sub(lambda found: shown(found[0]), text)


def secret_in(value: str) -> str | None:
    """What kind of secret a URI holds, in words; None if it holds none, or ``value`` is no URI."""
    if not _URI.fullmatch(value):
        return None
    scheme, user, _ = _user_info(value)
    if user and (":" in user or not scheme.startswith(_NAMED_USER)):
        return "a user or password"
    closed = [key for key, _ in parse_qsl(value.partition("?")[2], keep_blank_values=True) if key not in _OPEN_KEYS]  # fmt: skip
    return f"{', '.join(closed)} in its query" if closed else None


def secrets_in(tree: Any, key: str = "") -> tuple[str, str, str] | None:
    """(dotted key, what it holds, the URI as :func:`shown`) of the first setting with a secret."""
    if isinstance(tree, dict):
        parts = [(f"{key}.{name}" if key else str(name), value) for name, value in tree.items()]
    elif isinstance(tree, list | tuple):
        parts = [(key, value) for value in tree]
    elif isinstance(tree, str) and (what := secret_in(tree)) is not None:
        return key, what, shown(tree)
    else:
        return None
    return next((found for name, value in parts if (found := secrets_in(value, name))), None)

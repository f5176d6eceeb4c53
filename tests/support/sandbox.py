"""What the tests of code need: a machine that can confine it."""

from __future__ import annotations

import functools

import pytest

from jointsampler import UserError
from jointsampler.sandbox import run_program


@functools.cache
def _refusal() -> str | None:
    try:
        run_program("pass")
    except UserError as error:
        return str(error)
    return None


def need_sandbox() -> None:
    """Skip where the kernel or a container's profile refuses what the sandbox is built of."""
    if reason := _refusal():
        pytest.skip(reason)

"""Run untrusted Python programs in a fresh, confined process tree (Linux)."""

from .run import Limits, Outcome, run_program, run_programs

__all__ = ["Limits", "Outcome", "run_program", "run_programs"]

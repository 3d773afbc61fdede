"""Why a volume is not measured."""

from __future__ import annotations

__all__ = ["Refusal"]


class Refusal(Exception):
    """There are not two whole lungs to measure; the message says in one sentence what was seen instead."""

"""The command line `isocenter`. Each command is imported when it is called, so that every one starts quickly."""

from __future__ import annotations

from isocenter.cli.main import main

__all__ = ["main"]

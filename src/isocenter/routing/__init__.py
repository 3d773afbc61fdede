"""From what arrives to jobs: the archive's log, what is complete, what the rules say of it."""

from isocenter.routing.router import Router

__all__ = ["Router"]

"""How a route names a package: `map://NAME@sha256:DIGEST`. The name is for people, the digest says which image."""

from __future__ import annotations

import re

__all__ = ["digest_in", "is_package", "is_reference", "package_name"]

_SCHEME = "map://"
_REFERENCE = re.compile(r"map://[a-z0-9][a-z0-9._-]{0,56}@(sha256:[0-9a-f]{64})")


def is_package(application: str) -> bool:
    """Whether this name of an application means a package, by its digest or all its versions."""
    return application.startswith(_SCHEME)


def is_reference(application: str) -> bool:
    return _REFERENCE.fullmatch(application) is not None


def digest_in(application: str) -> str | None:
    """`sha256:...` of a reference; None of any other name."""
    found = _REFERENCE.fullmatch(application)
    return found[1] if found else None


def package_name(application: str) -> str:
    """`map://liver` of `map://liver@sha256:...`, which stands for all its versions; any other name as it is."""
    return application.partition("@")[0] if is_package(application) else application

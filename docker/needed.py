"""Prints what gateway and worker need, for pip: `python needed.py pyproject.toml`.

That is the project's dependencies and those of its extra `service`, less the embedded Triton, which is a container of
its own here, and whose package asks for an older NumPy than the rest.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

__all__ = ["needed"]

_OWN = "isocenter"
_NOT_HERE = {_OWN, "nvidia-pytriton"}


def needed(pyproject: Path) -> list[str]:
    """The requirements, as pyproject.toml states them."""
    project = tomllib.loads(pyproject.read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    found, names = [*project["dependencies"]], ["service"]
    for name in names:
        found += extras[name]
        for requirement in extras[name]:  # isocenter[models]
            if own := re.fullmatch(rf"{_OWN}\[(.+)\]", requirement):
                names += own[1].split(",")
    return [each for each in found if re.split(r"[^A-Za-z0-9._-]", each)[0] not in _NOT_HERE]


if __name__ == "__main__":
    sys.stdout.write("".join(f"{each}\n" for each in needed(Path(sys.argv[1]))))

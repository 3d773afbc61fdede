"""Where a package's Python comes from: the running environment, wheels in a folder, or what pip fetches."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from isocenter.maps.closure import Closure, closure_of, depends_on_extra
from isocenter.maps.distributions import Distribution, installed, is_editable, wheels_in
from isocenter_operators.errors import ConfigurationError, Unavailable

__all__ = ["Dependencies", "Origin"]

Origin = Literal["installed", "wheels", "index"]

_OURS = "isocenter"


@dataclass(frozen=True)
class Dependencies:
    """How the distributions are found.

    origin: `installed`, those of the running environment, which are the ones that were tested; `wheels`, those in the
    folder `wheels` alone; `index`, what pip resolves and fetches. Wheels in the folder win over the others, and what is
    installed from a source tree is taken from there, and so is Isocenter, which is in no index. folder: for what is
    unpacked.
    """

    origin: Origin
    folder: Path
    wheels: Path | None = None
    offline: bool = False
    gpu: bool = False

    def closure(self, requirements: Sequence[Requirement]) -> Closure:
        """All that these need. Raises ConfigurationError, and Unavailable where pip's index does not answer."""
        if self.origin == "wheels" and self.wheels is None:
            raise ConfigurationError("--dependencies wheels: give their folder by --wheels")
        if self.origin == "index":
            return self._fetched(requirements)
        given = wheels_in(self.wheels, self.folder / "wheels") if self.wheels else {}

        def find(name: str) -> Distribution | None:
            if name in given:
                return given[name]
            return installed(name) if self.origin == "installed" or _lies_here(name) else None

        return closure_of(requirements, find, gpu=self.gpu, strict=self.origin == "wheels")

    def _fetched(self, requirements: Sequence[Requirement]) -> Closure:
        if self.offline:
            raise ConfigurationError("--dependencies index: needs a network, and --offline forbids it")
        there = self.folder / "fetched"
        there.mkdir()
        links = ["--find-links", str(self.wheels)] if self.wheels else []
        private = _names_in(self.wheels) if self.wheels else set()
        asked = sorted({str(each) for each in _for_pip(requirements, private)})
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, "--only-binary=:all:", "--dest", str(there), *links, *asked],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [
                done.stderr.strip()
            ]
            raise Unavailable(
                f"pip could not fetch what requirements.txt asks for: {lines[-1].removeprefix('ERROR: ')}"
            )
        given = wheels_in(there, self.folder / "wheels")
        return closure_of(
            requirements,
            lambda name: given.get(name) or (installed(name) if _lies_here(name) else None),
            gpu=self.gpu,
            strict=True,
        )


def _lies_here(name: str) -> bool:
    """Whether an index is not to be asked for it: it would know nothing of it, or of another that has its name."""
    return canonicalize_name(name) == _OURS or is_editable(name)


def _names_in(wheels: Path) -> set[str]:
    return {canonicalize_name(file.name.partition("-")[0]) for file in wheels.glob("*.whl")}


def _for_pip(requirements: Sequence[Requirement], private: Collection[str]) -> Iterator[Requirement]:
    """What pip is asked for: instead of a distribution that lies here, and not among private wheels, what that one
    needs."""
    for each in requirements:
        if canonicalize_name(each.name) in private or not _lies_here(each.name):
            yield Requirement(str(each))
            continue
        there = installed(each.name)
        for line in there.requires if there else ():
            needed = Requirement(line)
            extras = ("", *each.extras) if depends_on_extra(needed) else ("",)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                needed.marker = None
                yield from _for_pip([needed], private)

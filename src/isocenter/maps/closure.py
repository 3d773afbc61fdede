"""Everything that an application's requirements.txt asks for, and what that asks for in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from isocenter.maps.distributions import Distribution
from isocenter_operators.errors import ConfigurationError

__all__ = ["Closure", "Find", "closure_of", "depends_on_extra", "read_requirements"]

# Of use on a GPU only: Holoscan and the SDK do without them where they are not there.
_FOR_GPU = ("cupy-", "cuda-")

Find = Callable[[str], Distribution | None]


@dataclass(frozen=True)
class Closure:
    """The distributions, sorted by name; `notes` say what a person should know of the choice."""

    distributions: tuple[Distribution, ...]
    notes: tuple[str, ...]


def read_requirements(file: Path) -> tuple[Requirement, ...]:
    """The requirements in a file of pip's form, with those of files that it names by `-r`.

    Raises ConfigurationError naming file and line for what is none: options, paths, repositories.
    """
    return tuple(_read(file, set()))


def _read(file: Path, seen: set[Path]) -> Iterator[Requirement]:
    if file.resolve() in seen:
        return
    seen.add(file.resolve())
    try:
        lines = file.read_text().replace("\\\n", " ").splitlines()
    except OSError as error:
        raise ConfigurationError(f"{file}: can not be read: {error.strerror}", path=str(file)) from error
    for number, line in enumerate(lines, 1):
        said = line.split(" #")[0].strip()
        if not said or said.startswith("#"):
            continue
        option, _, value = said.partition(" ")
        if option in ("-r", "--requirement"):
            yield from _read(file.parent / value.strip(), seen)
            continue
        said = said.split(" --hash")[0].strip()
        try:
            yield Requirement(said)
        except InvalidRequirement as error:
            raise ConfigurationError(
                f"{file}:{number}: {said!r} is no name of a package with its version; an index or a folder of "
                "wheels is named on the command line",
                path=str(file),
            ) from error


def closure_of(
    requirements: Sequence[Requirement], find: Find, *, gpu: bool, strict: bool = False
) -> Closure:
    """What these requirements need, with markers and extras as they count for the running Python.

    find: gives the distribution of a name. What only a GPU has a use for is left out where `gpu` is not set.

    Raises ConfigurationError where an application's own requirement can not be met. What a package asks of another and
    does not find in this version or at all is noted, because those are the versions that were tested here; where it is
    `strict`, it is refused too.
    """
    walk = _Walk(find, gpu, strict)
    for each in requirements:
        walk.require(each, "requirements.txt", {"extra": ""})
    return Closure(
        tuple(walk.found[name] for name in sorted(walk.found)),
        tuple(sorted(walk.notes)),
    )


class _Walk:
    def __init__(self, find: Find, gpu: bool, strict: bool) -> None:
        self.found: dict[str, Distribution] = {}
        self.notes: set[str] = set()
        self._find = find
        self._gpu = gpu
        self._strict = strict
        self._extras: dict[str, set[str]] = {}
        self._environment = {key: str(value) for key, value in default_environment().items()}

    def require(self, wanted: Requirement, by: str, extra: Mapping[str, str]) -> None:
        if wanted.marker is not None and not wanted.marker.evaluate({**self._environment, **extra}):
            return
        name = canonicalize_name(wanted.name)
        if not self._gpu and name.startswith(_FOR_GPU):
            self.notes.add(f"{name}, which {by} asks for, is of use on a GPU only and was left out")
            return
        there = self.found.get(name) or self._find(name)
        own = self._strict or by == "requirements.txt"
        if there is None:
            self._lacks(f"{by} asks for {wanted}, which is not here", own)
            return
        if not wanted.specifier.contains(there.version, prereleases=True):
            self._lacks(f"{by} asks for {wanted}, and {there.version} is here", own)
        self._follow(there, {"", *map(str, wanted.extras)})

    def _follow(self, there: Distribution, extras: set[str]) -> None:
        seen = self._extras.setdefault(there.name, set())
        self.found[there.name] = there
        for extra in sorted(extras - seen):
            seen.add(extra)
            for each in there.requires:
                requirement = Requirement(each)
                if extra and not depends_on_extra(requirement):
                    continue
                self.require(requirement, there.name, {"extra": extra})

    def _lacks(self, what: str, own: bool) -> None:
        if own:
            raise ConfigurationError(
                f"{what}; install it, give its wheel by --wheels, or have pip fetch it: --dependencies index"
            )
        self.notes.add(what)


def depends_on_extra(requirement: Requirement) -> bool:
    """Whether it is asked for with an extra only."""
    return requirement.marker is not None and "extra" in str(requirement.marker)

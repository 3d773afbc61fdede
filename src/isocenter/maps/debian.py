"""The base that is made where none is given: Debian or Ubuntu by debootstrap, with the Python that runs here."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from isocenter.maps.base import open_base
from isocenter.maps.image_config import History
from isocenter.maps.image_writer import Draft, write_image
from isocenter.maps.layer import epoch_of
from isocenter.maps.security_updates import Sources, without_credentials
from isocenter_operators.errors import ConfigurationError, Unavailable

__all__ = ["Recipe", "debian_base"]

# The release that has this Python.
_SUITES = {"3.11": "bookworm", "3.12": "noble"}
_RECIPE = "3"  # to be raised when what is made of the same packages changes
_SAID = "I: "


@dataclass(frozen=True)
class Recipe:
    """What goes into it. mirror, security: where the packages and the security updates are; the release's own where
    they are empty."""

    suite: str
    packages: tuple[str, ...]
    mirror: str = ""
    security: str = ""

    @classmethod
    def for_running_python(cls, further: Sequence[str] = (), mirror: str = "", security: str = "") -> Recipe:
        """Raises ConfigurationError where no release with this Python is known."""
        minor = f"{sys.version_info.major}.{sys.version_info.minor}"
        if minor not in _SUITES:
            raise ConfigurationError(
                f"--base: no Debian or Ubuntu release with Python {minor} is known here; give one"
            )
        suffix = "t64" if minor == "3.12" else ""
        # libpython: Triton's Python backend is linked to it. libgomp1: PyTorch and SciPy bring theirs, GDCM does not.
        needed = ("ca-certificates", "libgomp1", f"libpython{minor}{suffix}", "python3", "tzdata")
        return cls(_SUITES[minor], tuple(sorted({*needed, *further})), mirror, security)

    @property
    def name(self) -> str:
        where = map(without_credentials, (self.mirror, self.security))
        text = "\n".join((_RECIPE, self.suite, *where, *self.packages))
        return f"{self.suite}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def file(self, cache: Path) -> Path:
        """Where it lies once it is made."""
        return cache / f"base-{self.name}.oci"


def debian_base(recipe: Recipe, cache: Path, tell: Callable[[str], None], *, anew: bool = False) -> Path:
    """The OCI archive of such a base in the folder `cache`; made where it is not there, or where `anew` is set.

    The same packages give the same digest; which versions they have is decided by the mirror on that day, updates
    included, and stands in the image itself (/var/lib/dpkg/status).

    Raises ConfigurationError where it can not be made here, Unavailable where the mirror does not answer.
    """
    file = recipe.file(cache)
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / f".{file.name}.lock"):
        if anew or not file.is_file():
            _require_debootstrap()
            sources = Sources(recipe.suite, recipe.mirror, recipe.security)
            sources.lines  # noqa: B018 - raises before anything is done
            with TemporaryDirectory(prefix="base-", dir=cache) as folder:
                root = Path(folder) / "root"
                _bootstrap(recipe, root, Path(folder) / "debootstrap.log", tell)
                sources.bring_up_to_date(root, tell)
                _clean(root)
                _write(recipe, root, Path(folder), file)
                shutil.rmtree(root)
    return file


def _require_debootstrap() -> None:
    way_out = "or give a base: --base with an OCI layout, an archive, or a root file system"
    if _debootstrap() is None:
        raise ConfigurationError(
            f"there is no debootstrap here, which the base is made with: apt-get install debootstrap, {way_out}"
        )
    if os.geteuid() != 0:
        raise ConfigurationError(f"debootstrap makes a base as root only: sudo isocenter map base, {way_out}")


def _debootstrap() -> str | None:
    return shutil.which("debootstrap", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))


def _bootstrap(recipe: Recipe, root: Path, log: Path, tell: Callable[[str], None]) -> None:
    """Runs for a minute or so, and tells each step that it comes to."""
    command = [
        _debootstrap() or "debootstrap",
        "--variant=minbase",
        f"--include={','.join(recipe.packages)}",
        recipe.suite,
        str(root),
        *([recipe.mirror] if recipe.mirror else []),
    ]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "LC_ALL": "C.UTF-8", "TMPDIR": "/tmp"}
    said: list[str] = []
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        told: set[str] = set()
        for line in map(without_credentials, process.stdout or ()):
            said.append(line.rstrip())
            doing = line.removeprefix(_SAID).rstrip().rstrip(".")
            verb = doing.partition(" ")[0]
            if line.startswith(_SAID) and verb not in told:  # it does the same to hundreds of packages
                told.add(verb)
                tell(doing)
    if process.returncode != 0:
        log_there = root / "debootstrap/debootstrap.log"
        last = [*said, *(log_there.read_text(errors="replace").splitlines() if log_there.is_file() else ())][
            -3:
        ]
        raise Unavailable(
            f"debootstrap could not make {recipe.suite}: {without_credentials(' / '.join(last))}; without a network, "
            "give a base that was made elsewhere: --base"
        )


def _clean(root: Path) -> None:
    """Take out what no two runs have in common and nobody needs."""
    for name in ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale"):
        for path in sorted((root / name).glob("*")):
            if path.is_dir() and not path.is_symlink():
                _clear(path)
            else:
                path.unlink()
    for path in root.rglob("*"):
        there = path.lstat()
        # Nobody in a package has another's rights to take.
        if stat.S_ISREG(there.st_mode) and there.st_mode & (stat.S_ISUID | stat.S_ISGID):
            path.chmod(stat.S_IMODE(there.st_mode) & ~(stat.S_ISUID | stat.S_ISGID))
    shadow = root / "etc/shadow"
    lines = [line.split(":") for line in shadow.read_text().splitlines()]
    # The third field is the day of the last change of a password, of which there is none.
    shadow.write_text("".join(":".join((*line[:2], "", *line[3:])) + "\n" for line in lines))


def _clear(folder: Path) -> None:
    """All but the licences, which have to go with what they are of."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.name != "copyright":
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _write(recipe: Recipe, root: Path, folder: Path, file: Path) -> None:
    base = open_base(root, folder, epoch=epoch_of({}))
    history = History(
        created_by=f"debootstrap --variant=minbase --include={','.join(recipe.packages)} {recipe.suite}; "
        "apt-get dist-upgrade"
    )
    config = base.config.model_copy(update={"history": (history,)})
    write_image(Draft(config, base.layers, f"isocenter-base:{recipe.name}"), file)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Two that want the same base make it once."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield

"""The `tritonserver` inside the nvidia-pytriton wheel: where it is, and what it needs around it.

The wheel holds a complete server with the Python backend. PyTriton's own Python API is not used, and the package
is never imported.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from isocenter_operators.errors import ConfigurationError, StorageFull

__all__ = ["TritonDistribution"]

_UTILITIES = "triton_python_backend_utils.py"  # imported by every Python model's process before the model
_HOOK = Path(__file__).with_name("triton_stub.py")
_OR_ELSEWHERE = "or set triton.url to a Triton that runs"


@dataclass(frozen=True)
class TritonDistribution:
    """An unpacked wheel. `folder` is its `pytriton/tritonserver`."""

    folder: Path

    @classmethod
    def installed(cls) -> TritonDistribution:
        """The one in this environment. Raises ConfigurationError, saying how to install it."""
        package = importlib.util.find_spec("pytriton")
        for place in (package.submodule_search_locations or ()) if package else ():
            found = cls(Path(place) / "tritonserver")
            if not found.program.exists():
                continue
            if not os.access(found.program, os.X_OK):
                raise ConfigurationError(f"{found.program} is not executable: chmod +x it, {_OR_ELSEWHERE}")
            return found
        raise ConfigurationError(
            "there is no Triton server in this environment: install it (pip install --no-deps "
            f"nvidia-pytriton, x86-64 Linux only), {_OR_ELSEWHERE}"
        )

    @property
    def program(self) -> Path:
        return self.folder / "bin" / "tritonserver"

    @property
    def library_folders(self) -> tuple[Path, ...]:
        """What LD_LIBRARY_PATH needs: the wheel's libraries, and this interpreter's libpython."""
        return (_libpython_folder(), self.folder.parents[1] / "nvidia_pytriton.libs")

    def assemble_backends(self, folder: Path) -> Path:
        """Make a backend directory in `folder`, with the Python backend for the running interpreter's version.

        The wheel brings one stub process per Python version and leaves the choice open.
        """
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stubs = self.folder / "python_backend_stubs"
        stub = stubs / version / "triton_python_backend_stub"
        if not stub.exists():
            known = ", ".join(sorted(path.name for path in stubs.glob("3.*")))
            raise ConfigurationError(
                f"the installed nvidia-pytriton serves Python {known}, not {version}: use one of these, "
                f"{_OR_ELSEWHERE}"
            )
        backend = self.folder / "backends" / "python"
        try:
            _fill(
                folder / "python",
                [*(path for path in backend.iterdir() if path.name != _UTILITIES), stub, _HOOK],
            )
            _fill_utilities(backend / _UTILITIES, folder / "python" / _UTILITIES)
        except OSError as error:
            kind = StorageFull if error.errno == errno.ENOSPC else ConfigurationError
            raise kind(f"{folder} can not be written: {error.strerror}", path=str(folder)) from error
        return folder


def _fill(folder: Path, sources: Iterable[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        if source.is_file():
            _copy(source, folder / source.name)
            (folder / source.name).chmod(0o755)


def _fill_utilities(source: Path, target: Path) -> None:
    """The backend's own module, which the models' processes import first, and our `triton_stub` with it.

    They run isolated: neither PYTHONPATH nor a sitecustomize reaches them.
    """
    text = f"{source.read_text()}\nimport {_HOOK.stem}\n\n{_HOOK.stem}.listen()\n"
    if not target.exists() or target.read_text() != text:
        _replace(target, lambda unfinished: unfinished.write_text(text))


def _copy(source: Path, target: Path) -> None:
    if target.exists() and target.stat().st_mtime_ns == source.stat().st_mtime_ns:
        return
    _replace(target, lambda unfinished: shutil.copy2(source, unfinished))


def _replace(target: Path, write: Callable[[Path], object]) -> None:
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    write(unfinished)
    unfinished.replace(target)  # another server may run from the old one


def _libpython_folder() -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    library = f"libpython{version}.so.1.0"
    folder = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for candidate in (
        folder,
        folder / multiarch,
        Path(sys.base_prefix) / "lib",
        Path("/usr/lib") / multiarch,
    ):
        if (candidate / library).exists():
            return candidate
    raise ConfigurationError(
        f"{library}, which Triton's Python backend needs, is not there: install it (Debian: apt-get install "
        f"libpython{version}; pyenv: build Python with --enable-shared), {_OR_ELSEWHERE}"
    )

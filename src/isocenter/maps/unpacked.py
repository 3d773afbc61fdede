"""The root of a package's file system as a folder: unpacked once for each digest, and only read from then on."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from isocenter.maps.oci import Image
from isocenter.maps.package import Package
from isocenter.maps.root_folder import RootFolder
from isocenter_operators.errors import InputError, StorageFull

__all__ = ["forget", "forget_old", "in_use", "unpacked"]

_KEPT_S = 30 * 86400.0


def unpacked(package: Package, cache: Path) -> Package:
    """The package with the folder that it is unpacked in. Everything in it belongs to this process's user.

    The image is compared with its digests when it is unpacked. Raises InputError where it differs, and StorageFull.
    """
    if package.image is None:
        return package
    with in_use(package, cache):
        return replace(package, unpacked=RootFolder(_unpacked(package.image, cache)))


def _unpacked(image: Image, cache: Path) -> Path:
    root = cache / _name(image.digest)
    with _locked(cache, root.name):
        if root.is_dir():
            return root
        part = cache / f".{root.name}.part"
        if part.exists():  # of a process that died in the middle
            _remove(part)
        try:
            image.verify()
            image.extract(part, owners=False)
            part.rename(root)
        except OSError as error:
            _remove(part)
            raise StorageFull(f"{cache}: the package could not be unpacked: {error.strerror}") from error
        except InputError:
            _remove(part)
            raise
    return root


@contextmanager
def in_use(package: Package, cache: Path) -> Iterator[None]:
    """Meanwhile nobody forgets what is unpacked of it. It ends with this process, however that ends."""
    if package.image is None:
        yield
        return
    _prepare(cache)
    file = _used(cache, _name(package.image.digest))
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        os.utime(file)
        yield


def forget(cache: Path, stays: Callable[[str], bool]) -> None:
    """Remove all that is unpacked, but for the digests that stay, and for what somebody uses."""
    for root in cache.glob("sha256-*"):
        if not stays(root.name.replace("-", ":", 1)):
            _forget(root)
    for part in cache.glob(".sha256-*.part"):  # of a process that died in the middle
        _forget(cache / part.name[1:].removesuffix(".part"), part)


def forget_old(cache: Path) -> None:
    """Remove what was not used for a month."""
    now = time.time()

    def is_new(digest: str) -> bool:
        used = _used(cache, _name(digest))
        return used.exists() and now - used.stat().st_mtime < _KEPT_S

    forget(cache, is_new)


def _forget(root: Path, part: Path | None = None) -> None:
    with _used(root.parent, root.name).open("a") as used:
        try:
            fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        _remove(part or root)


def _used(cache: Path, name: str) -> Path:
    return cache / f".{name}.used.lock"


def _name(digest: str) -> str:
    return digest.replace(":", "-")


def _prepare(cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o700)  # what has set-user-ID in an image would have it for everybody here


@contextmanager
def _locked(cache: Path, name: str) -> Iterator[None]:
    """One process at a time unpacks an image; the others wait for it."""
    _prepare(cache)
    with (cache / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove(root: Path) -> None:
    """Also folders that their own modes would keep from being emptied."""
    for place, folders, _ in os.walk(root):
        for folder in folders:
            path = Path(place) / folder
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(root, ignore_errors=True)

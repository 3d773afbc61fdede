"""The root of a package's file system as a folder: unpacked once for each digest, and only read from then on."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from isocenter.maps.oci import Image
from isocenter.maps.package import Package
from isocenter.maps.root_folder import RootFolder
from isocenter_operators.errors import InputError, StorageFull

__all__ = ["remove_unpacked", "unpacked"]


def unpacked(package: Package, cache: Path) -> Package:
    """The package with the folder that it is unpacked in. Everything in it belongs to this process's user.

    The image is compared with its digests when it is unpacked. Raises InputError where it differs, and StorageFull.
    """
    if package.image is None:
        return package
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


def remove_unpacked(digest: str, cache: Path) -> None:
    """Forget what was unpacked of the image of this digest, if anything."""
    with _locked(cache, _name(digest)):
        _remove(cache / _name(digest))


def _name(digest: str) -> str:
    return digest.replace(":", "-")


@contextmanager
def _locked(cache: Path, name: str) -> Iterator[None]:
    """One process at a time unpacks an image; the others wait for it."""
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o700)  # what has set-user-ID in an image would have it for everybody here
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

"""The packages that routes may name: each image in a folder of its own, by its digest, with what was known at import.

<data_dir>/maps/sha256-<digest>/image.oci, record.json
<data_dir>/maps/.add.lock, .lock one process at a time takes a package in; none looks for one while it is exchanged
<data_dir>/maps/unpacked/        what was unpacked to be run
"""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_SH, flock
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from isocenter.maps.package import Package, open_package
from isocenter.maps.signature import signer
from isocenter.maps.unpacked import forget
from isocenter_operators.errors import ConfigurationError, InputError, StorageFull

__all__ = ["MapStore", "StoredMap"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,56}")
_IMAGE, _RECORD = "image.oci", "record.json"
_ADDING, _LOCK = ".add.lock", ".lock"


class StoredMap(BaseModel):
    """One package in the store. `signature`: as it was given, in Base64; whom it is of is asked each time anew."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    digest: str  # sha256:...
    version: str
    title: str
    vendor: str
    timeout_s: int  # of its manifest; 0: none
    ours: bool = False  # its app.yaml calls it an application of Isocenter, as anybody may write
    vouched: bool = False  # whoever added it says that it is one
    added: datetime
    signature: str | None = None

    @property
    def application(self) -> str:
        """What stands for all its versions: results of a newer one replace those of an earlier one."""
        return f"map://{self.name}"

    @property
    def reference(self) -> str:
        """What a route names it by."""
        return f"{self.application}@{self.digest}"


class MapStore:
    """Packages below `folder`. trusted: public keys; where there are any, every package has to be signed by one."""

    def __init__(self, folder: Path, trusted: Sequence[Path] = ()) -> None:
        self.folder = folder
        self._trusted = tuple(trusted)

    @property
    def cache(self) -> Path:
        """Where packages are unpacked."""
        return self.folder / "unpacked"

    def add(
        self,
        source: Path,
        *,
        name: str | None = None,
        signature: bytes | None = None,
        vouched: bool = False,
    ) -> StoredMap:
        """Take an image into the store, once it was found whole, readable and, where that is asked for, signed.

        vouched: it is an application of Isocenter, and what it says of itself is to be believed (`believed`).

        Raises InputError for an image that can not be run, ConfigurationError for one that is not trusted, StorageFull
        where there is no room for it; nothing of it is left then.
        """
        package = open_package(source)
        if package.image is None:
            raise InputError(
                f"{source}: a folder has no digest; give an image: an OCI archive, or what docker save writes"
            )
        package.image.verify()
        stored = _stored(package, name, signature, vouched)
        self._trust(stored)
        with self._alone(_ADDING):
            self._put(source, stored)
        return stored

    def _put(self, source: Path, stored: StoredMap) -> None:
        """Beside the others, or instead of what lies under this digest; an image that is whole stays where it is, for a
        job may be reading it."""
        for abandoned in self.folder.glob(
            ".sha256-*.part"
        ):  # of processes that died in the middle: this one is alone
            shutil.rmtree(abandoned, ignore_errors=True)
        part = self.place(stored).with_name(f".{self.place(stored).name}.part")
        try:
            self._take_in(source, stored, part)
        except OSError as error:
            raise StorageFull(
                f"{self.folder}: the package could not be taken in: {error.strerror or error}"
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _take_in(self, source: Path, stored: StoredMap, part: Path) -> None:
        place, record = self.place(stored), part / _RECORD
        part.mkdir()
        record.write_text(stored.model_dump_json(indent=2) + "\n")
        if _is_whole(place / _IMAGE, stored.digest):
            record.replace(place / _RECORD)
            return
        if source.is_dir():
            shutil.copytree(source, part / _IMAGE)
        else:
            shutil.copyfile(source, part / _IMAGE)
        with self._alone(_LOCK):
            shutil.rmtree(place, ignore_errors=True)
            part.rename(place)

    def all(self) -> list[StoredMap]:
        """In the order of their names. Raises ConfigurationError for a record that can not be read."""
        with self._read():
            found = [self._record(file) for file in self.folder.glob(f"sha256-*/{_RECORD}")]
        return sorted(found, key=lambda each: (each.name, each.added))

    def get(self, digest: str) -> StoredMap:
        """Raises ConfigurationError where it is not there, or not signed as it has to be."""
        file = self.folder / _folder_of(digest) / _RECORD
        with self._read():
            if not file.is_file():
                raise ConfigurationError(
                    f"there is no package with the digest {digest} here: `isocenter map add FILE` imports one",
                    path=str(file),
                )
            stored = self._record(file)
        self._trust(stored)
        return stored

    def open(self, stored: StoredMap) -> Package:
        """Raises InputError where the image is not what it was when it was added."""
        with self._read():
            package = open_package(self.place(stored) / _IMAGE)
        if package.digest != stored.digest:
            raise InputError(
                f"{stored.reference}: the image in the store has the digest {package.digest}; add the right one again"
            )
        return package

    def place(self, stored: StoredMap) -> Path:
        return self.folder / _folder_of(stored.digest)

    def remove(self, stored: StoredMap) -> None:
        """Jobs that still name it will say that it is not there. Raises ConfigurationError where it stays."""
        with self._alone(_ADDING), self._alone(_LOCK):
            place = self.place(stored)
            try:
                if place.exists():  # else another did the same
                    shutil.rmtree(place)
            except OSError as error:
                raise ConfigurationError(
                    f"{error.filename} can not be deleted: {error.strerror}", path=str(place)
                ) from error
        self.forget_unpacked()

    def forget_unpacked(self) -> None:
        """Remove what is unpacked of images that are here no more; while a job uses one, it stays."""
        forget(self.cache, lambda digest: (self.folder / _folder_of(digest)).is_dir())

    def signed_by(self, stored: StoredMap) -> Path | None:
        """The trusted key that it was signed with."""
        if stored.signature is None or not self._trusted:
            return None
        return signer(stored.digest, base64.b64decode(stored.signature), self._trusted)

    def believed(self, stored: StoredMap) -> bool:
        """Whether it may answer that it is not applicable: an application of ours, by more than its own word."""
        return stored.ours and (stored.vouched or self.signed_by(stored) is not None)

    def _trust(self, stored: StoredMap) -> None:
        if self._trusted and self.signed_by(stored) is None:
            how = "is not signed" if stored.signature is None else "is signed with another key"
            raise ConfigurationError(
                f"{stored.reference} {how}, and maps.trusted_keys asks for one of its keys: sign the digest "
                f"{stored.digest}, and add it with --signature"
            )

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / name).open("w") as lock:
            flock(lock, LOCK_EX)
            yield

    @contextmanager
    def _read(self) -> Iterator[None]:
        """Nothing is exchanged meanwhile. Who may only read here can do so; where no lock is, nobody ever wrote."""
        with ExitStack() as held:
            with suppress(FileNotFoundError):
                flock(held.enter_context((self.folder / _LOCK).open()), LOCK_SH)
            yield

    def _record(self, file: Path) -> StoredMap:
        try:
            return StoredMap.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            raise ConfigurationError(
                f"{file}: can not be read; add the package again", path=str(file)
            ) from error


def _folder_of(digest: str) -> str:
    return digest.replace(":", "-")


def _is_whole(image: Path, digest: str) -> bool:
    if not image.exists():
        return False
    try:
        package = open_package(image)
        if package.image is not None:
            package.image.verify()
    except InputError:
        return False
    return package.digest == digest


def _stored(package: Package, name: str | None, signature: bytes | None, vouched: bool) -> StoredMap:
    """What is known of a package. Raises InputError for manifests that can not be used, or no name, and where somebody
    vouches for what does not even say that it is ours."""
    application, digest = package.application, package.digest
    assert digest is not None
    package.package  # noqa: B018 - raises where it can not be read
    ours = _is_ours(package)
    if vouched and not ours:
        raise InputError(
            f"{package.source}: --vouch is for an application of Isocenter, and its app.yaml has no isocenter: block"
        )
    labels = package.labels
    title = labels.get("org.opencontainers.image.title", "")
    tag = (package.image.tag if package.image else "").rpartition("/")[2].partition(":")[0]
    given = (name or tag or re.sub(r"[^a-z0-9._-]+", "-", title.lower()).strip("-._")).lower()
    if not _NAME.fullmatch(given):
        raise InputError(
            f"{package.source}: {given!r} is no name for a package: give one by --name, as in liver"
        )
    return StoredMap(
        name=given,
        digest=digest,
        version=application.version or package.package.version or "0.0.0",
        title=title or given,
        vendor=labels.get("org.opencontainers.image.vendor")
        or labels.get("org.opencontainers.image.authors")  # of app.yaml, where `map build` made it
        or "unknown",  # whoever vouches for it need not have made it, and neither have we
        ours=ours,
        vouched=vouched,
        timeout_s=application.timeout,
        added=datetime.now(UTC),
        signature=base64.b64encode(signature).decode() if signature else None,
    )


def _is_ours(package: Package) -> bool:
    """Whether its app.yaml has the block of an application of Isocenter."""
    file = package.layout.configuration
    if not package.has(file):
        return False
    try:
        content = yaml.safe_load(package.files.read(file))
    except (yaml.YAMLError, InputError):
        return False
    return isinstance(content, dict) and isinstance(content.get("isocenter"), dict)

"""A MONAI Application Package, opened: an image in a file, or the root of its file system in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from isocenter.maps.filesystem import Entry, FileSystem
from isocenter.maps.image_config import ImageConfig
from isocenter.maps.manifests import (
    HOLOSCAN,
    LAYOUTS,
    ApplicationManifest,
    Layout,
    Model,
    PackageManifest,
    Reading,
    examine_application,
    examine_package,
    read_application,
    read_package,
)
from isocenter.maps.oci import Image, open_image
from isocenter.maps.root_folder import RootFolder
from isocenter_operators.errors import InputError

__all__ = ["Package", "open_package"]


@dataclass(frozen=True)
class Package:
    """What a package is made of: `image` is None of a folder, which says nothing of how it is started."""

    source: str
    unpacked: RootFolder | None  # where it lies unpacked
    image: Image | None

    @property
    def kind(self) -> Literal["image", "folder"]:
        return "image" if self.image else "folder"

    @property
    def files(self) -> FileSystem:
        """Its file system. Of an image that is not unpacked, all layers are looked through when it is asked first."""
        if self.unpacked is not None:
            return self.unpacked
        assert self.image is not None
        return self.image.file_system

    @cached_property
    def layout(self) -> Layout:
        """The first whose manifests are there; the current one where none are."""
        for layout in LAYOUTS:
            if self.has(layout.application_manifest) or self.has(layout.package_manifest):
                return layout
        return HOLOSCAN

    @property
    def digest(self) -> str | None:
        """Of the image, as `sha256:...`; None of a folder."""
        return self.image.digest if self.image else None

    @property
    def config(self) -> ImageConfig:
        """How the image is started; of a folder, what an image says that says nothing."""
        return self.image.config if self.image else ImageConfig()

    @property
    def labels(self) -> dict[str, str]:
        return self.config.config.labels or {}

    def has(self, path: str) -> bool:
        return self.files.find(path) is not None

    @cached_property
    def application_reading(self) -> Reading[ApplicationManifest] | None:
        """`app.json`, or what is wrong with it; None where there is none."""
        file = self.layout.application_manifest
        return examine_application(self.files.read(file)) if self._is_file(file) else None

    @cached_property
    def package_reading(self) -> Reading[PackageManifest] | None:
        """`pkg.json`, or what is wrong with it; None where there is none."""
        file = self.layout.package_manifest
        return examine_package(self.files.read(file)) if self._is_file(file) else None

    @property
    def application(self) -> ApplicationManifest:
        """Raises InputError where it is not there, or not what it should be."""
        file = self.layout.application_manifest
        return read_application(self.files.read(file), f"{self.source}: {file}")

    @property
    def package(self) -> PackageManifest:
        """Raises InputError where it is not there, or not what it should be."""
        file = self.layout.package_manifest
        return read_package(self.files.read(file), f"{self.source}: {file}")

    @property
    def models(self) -> tuple[tuple[Model, str], ...]:
        """The models that it names, each with its path; none where the manifest can not be read."""
        reading = self.package_reading
        if reading is None or reading.manifest is None:
            return ()
        root = reading.manifest.model_root_in(self.layout)
        return tuple((model, model.path_in(root)) for model in reading.manifest.models)

    def files_below(self, path: str) -> Sequence[Entry]:
        """The regular files in the folder at this path, or the file that is there; none where nothing is."""
        found = self.files.find(path)
        if found is None:
            return ()
        if found.kind == "file":
            return (found,)
        prefix = f"{found.path}/" if found.path else ""
        return [
            entry for entry in self.files.entries() if entry.kind == "file" and entry.path.startswith(prefix)
        ]

    def _is_file(self, path: str) -> bool:
        found = self.files.find(path)
        return found is not None and found.kind == "file"


def open_package(path: Path, tag: str = "") -> Package:
    """The package in this image file, or in this folder. Raises InputError where there is neither."""
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder", path=str(path))
    if path.is_dir() and not ((path / "index.json").is_file() or (path / "manifest.json").is_file()):
        return Package(str(path), RootFolder(path), None)
    return Package(str(path), None, open_image(path, tag))

"""What a package stands on: an image, or a root file system as debootstrap makes it."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

from isocenter.maps.blobs import digest_of
from isocenter.maps.filesystem import FileSystem
from isocenter.maps.image_config import LAYER_TYPE, ContainerConfig, ImageConfig
from isocenter.maps.image_writer import Blob, taken_layer
from isocenter.maps.layer import WrittenLayer, write_tree
from isocenter.maps.oci import open_image
from isocenter_operators.errors import ConfigurationError, InputError

__all__ = ["Base", "DebianPackage", "Interpreter", "is_reference", "open_base"]

_REFERENCE = re.compile(r"[a-z0-9]+([._/:-][a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?")
_PYTHONS = ("/usr/local/bin/python3", "/usr/bin/python3", "/bin/python3")
_PYTHON = re.compile(r"python(3\.\d+)")
_SHELL_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Of a root file system: what is made anew when it starts, belongs to one machine, or only installs.
_LEFT_OUT = re.compile(
    r"(dev|proc|sys|run|tmp|var/(tmp|run|log|cache/(apt|debconf|ldconfig|man))|var/lib/apt/lists)/.+|"
    r"etc/(machine-id|hostname|resolv\.conf)|.*/__pycache__|var/lib/dpkg/.*-old|etc/.*-|debootstrap|boot/.+"
)


@dataclass(frozen=True)
class Interpreter:
    path: str  # of the program, absolute, no symbolic link
    minor: str  # "3.11"


@dataclass(frozen=True)
class DebianPackage:
    name: str
    version: str
    architecture: str


@dataclass(frozen=True)
class Base:
    """Layers to build upon. `digest`: of the image, or of the only layer of a root file system."""

    name: str
    digest: str
    config: ImageConfig
    layers: Sequence[Blob]
    file_system: FileSystem

    def interpreter(self) -> Interpreter:
        """Its Python. Raises ConfigurationError where it has none."""
        for path in _PYTHONS:
            found = self.file_system.find(path)
            match = _PYTHON.fullmatch(found.path.rpartition("/")[2]) if found else None
            if found and match:
                return Interpreter(f"/{found.path}", match[1])
        raise ConfigurationError(
            f"--base: {self.name} has no python3 in {' or '.join(_PYTHONS)}: a package needs one; Debian: debootstrap "
            "--include=python3"
        )

    def packages(self) -> tuple[DebianPackage, ...]:
        """The Debian packages that are installed in it; none where it is of another kind."""
        if self.file_system.find("/var/lib/dpkg/status") is None:
            return ()
        text = self.file_system.read("/var/lib/dpkg/status").decode(errors="replace")
        entries = (Parser().parsestr(each, headersonly=True) for each in text.strip().split("\n\n"))
        return tuple(
            DebianPackage(each["Package"], each["Version"], each["Architecture"])
            for each in entries
            if each["Package"] and str(each["Status"]).endswith(" installed")
        )


def is_reference(name: str) -> bool:
    """Whether it names an image in a registry rather than a file or folder: `debian:12`, `python@sha256:...`."""
    return not Path(name).exists() and _REFERENCE.fullmatch(name) is not None


def open_base(path: Path, folder: Path, *, epoch: int) -> Base:
    """The base at this path: an OCI layout or archive, what docker save made, or a root file system as folder or tar.

    folder: where a root file system is packed. Raises InputError, and ConfigurationError where there is nothing.
    """
    if not path.exists():
        raise ConfigurationError(
            f"--base: there is no {path}; without a container engine a base is a file or a folder here: an "
            "OCI layout or archive, or a root file system"
        )
    if path.is_dir() and not (path / "index.json").is_file():
        return _of_root(path, _packed(path, folder / "base.tar", epoch))
    if path.is_file() and _is_root_tar(path):
        return _of_root(path, _copied(path, folder / "base.tar"))
    image = open_image(path)
    return Base(
        image.tag or path.name,
        image.digest,
        image.config,
        [taken_layer(each) for each in image.layers],
        image.file_system,
    )


def _packed(root: Path, file: Path, epoch: int) -> WrittenLayer:
    if not (root / "usr").is_dir():
        raise InputError(
            f"{root}: neither an image nor a root file system: there is no usr in it", path=str(root)
        )
    return write_tree(root, file, epoch=epoch, left_out=lambda path: _LEFT_OUT.fullmatch(path) is not None)


def _is_root_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./").strip("/")
                if name.partition("/")[0] in ("usr", "etc"):
                    return True
                if name in ("oci-layout", "index.json", "manifest.json"):
                    return False
    except tarfile.TarError:
        return False
    return False


def _copied(path: Path, file: Path) -> WrittenLayer:
    shutil.copyfile(path, file)
    with file.open("rb") as stream:
        digest = digest_of(stream)
    return WrittenLayer(file, digest, digest, file.stat().st_size, LAYER_TYPE)


def _of_root(path: Path, layer: WrittenLayer) -> Base:
    config = ImageConfig(config=ContainerConfig(env=(_SHELL_PATH,), cmd=("/bin/sh",)))
    return Base(path.name, layer.digest, config, [layer], FileSystem([layer]))

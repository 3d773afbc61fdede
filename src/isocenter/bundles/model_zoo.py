"""Bundles fetched by their name, from MONAI's Model Zoo or a copy of it.

The zoo's index, `models/model_info.json` of its repository, names each version's source: a zip with its SHA-1, or, of
later ones, a repository at Hugging Face. Nothing is believed that does not have the digest it should have.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from isocenter_operators.dicomweb.trust import distrust
from isocenter_operators.errors import ConfigurationError, Unavailable

__all__ = ["fetched", "is_zoo_name"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]+")
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)


def is_zoo_name(path: Path) -> bool:
    """Whether this can only be the name of a bundle: no such file or folder is here, and it names no place."""
    return not path.exists() and _NAME.fullmatch(str(path)) is not None


@contextmanager
def fetched(name: str, index: str | None) -> Iterator[Path]:
    """The newest version of this bundle, as a folder or a zip that lies there for as long as it is used.

    index: the address of the zoo's index; None: nothing is fetched.

    Raises Unavailable where the network does not answer, ConfigurationError where the index has no such name or
    what comes is not what it says. Each message tells what was tried and how to bring the bundle by hand.
    """
    if index is None:
        raise ConfigurationError(
            f"{name}: there is no such folder or zip, and model_zoo is null: nothing is fetched here; {_by_hand(name)}"
        )
    with TemporaryDirectory(prefix="isocenter-zoo-") as folder, _Zoo(name, index) as zoo:
        version, entry = zoo.newest()
        yield zoo.bundle(version, entry, Path(folder))


def _by_hand(name: str) -> str:
    return (
        "fetch the bundle where there is a network (`python -m monai.bundle download --name "
        f"{name} --bundle_dir .`), bring the folder or its zip here, and import that"
    )


class _Zoo:
    def __init__(self, name: str, index: str) -> None:
        self._name = name
        self._index = index
        self._http = httpx.Client(timeout=_TIMEOUT, follow_redirects=True)

    def __enter__(self) -> _Zoo:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def newest(self) -> tuple[str, Mapping[str, Any]]:
        content = self._json(self._index)
        prefix = f"{self._name}_v"
        versions = (
            {key.removeprefix(prefix): entry for key, entry in content.items() if key.startswith(prefix)}
            if isinstance(content, Mapping)
            else {}
        )
        usable = {key: entry for key, entry in versions.items() if isinstance(entry, Mapping)}
        if not usable:
            raise ConfigurationError(
                f"{self._name}: there is no such folder or zip, and {self._index} has no bundle of this name"
            )
        version = max(usable, key=_in_order)
        return version, usable[version]

    def bundle(self, version: str, entry: Mapping[str, Any], folder: Path) -> Path:
        source = str(entry.get("source", ""))
        if source.endswith(".zip"):
            file = folder / f"{self._name}.zip"
            self._download(source, file, hashlib.sha1(), str(entry.get("checksum") or ""))
            return file
        parts = urlsplit(source)
        path = PurePosixPath(parts.path).parts[1:]
        if parts.scheme not in ("http", "https") or len(path) < 2:
            raise ConfigurationError(
                f"{self._name} {version}: its source in {self._index} is {source!r}, which is neither a zip nor a "
                f"repository; {_by_hand(self._name)}"
            )
        revision = path[3] if len(path) > 3 and path[2] == "tree" else version
        self._repository(
            f"{parts.scheme}://{parts.netloc}", "/".join(path[:2]), revision, folder / self._name
        )
        return folder / self._name

    def _repository(self, site: str, repository: str, revision: str, folder: Path) -> None:
        """Every file of a repository at Hugging Face: large ones have their SHA-256 listed, others git's own digest."""
        revision = quote(revision, safe="")
        listing = f"{site}/api/models/{repository}/tree/{revision}?recursive=true"
        found = self._json(listing)
        entries = [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []
        files = [each for each in entries if each.get("type") == "file"]
        if not files:
            raise ConfigurationError(f"{listing}: lists no files; {_by_hand(self._name)}")
        for each in files:
            path = PurePosixPath(str(each.get("path", "")))
            if path.is_absolute() or not path.name or ".." in path.parts:
                raise ConfigurationError(f"{listing}: {str(path)!r} would lie outside of the bundle")
            file = folder / path
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigurationError(f"{file.parent} can not be made: {error.strerror}") from error
            where = f"{site}/{repository}/resolve/{revision}/{quote(str(path))}"
            self._download(where, file, *_digest(each))

    def _json(self, url: str) -> Any:
        try:
            answer = self._http.get(url)
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreached(url, error) from error
        except ValueError as error:
            raise ConfigurationError(f"{url}: the answer is no JSON; {_by_hand(self._name)}") from error

    def _download(self, url: str, file: Path, digest: hashlib._Hash, expected: str) -> None:
        if not expected:
            raise ConfigurationError(f"{url}: no checksum of it is known; {_by_hand(self._name)}")
        try:
            with self._http.stream("GET", url) as answer, file.open("wb") as out:
                answer.raise_for_status()
                for piece in answer.iter_bytes():
                    digest.update(piece)
                    out.write(piece)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreached(url, error) from error
        except OSError as error:
            raise ConfigurationError(f"{file} can not be written: {error.strerror}") from error
        if digest.hexdigest() != expected.lower():
            raise ConfigurationError(
                f"{url}: what came has another checksum than the index says ({digest.name} {digest.hexdigest()}, not "
                f"{expected}): it is not used; {_by_hand(self._name)}"
            )

    def _unreached(self, url: str, error: httpx.HTTPError | httpx.InvalidURL) -> Unavailable:
        if isinstance(error, httpx.HTTPStatusError):
            answer = error.response
            told = f"answered {answer.status_code} {answer.reason_phrase}".rstrip()
        else:
            told = distrust(error) or f"did not answer: {error or type(error).__name__}"
        return Unavailable(
            f"{self._name}: there is no such folder or zip, and the Model Zoo could not be reached: {url} {told}; "
            f"{_by_hand(self._name)}"
        )


def _digest(listed: Mapping[str, Any]) -> tuple[hashlib._Hash, str]:
    """What is to be computed of a file that Hugging Face lists, and what has to come out; "" where it is not told."""
    large = listed.get("lfs")
    if isinstance(large, Mapping) and large.get("oid"):
        return hashlib.sha256(), str(large["oid"])
    size = listed.get("size")
    blob = b"blob %d\0" % (size if isinstance(size, int) else 0)  # as git names its content
    return hashlib.sha1(blob), str(listed.get("oid") or "")


def _in_order(version: str) -> tuple[int, ...]:
    """0.10.0 comes after 0.9.1."""
    return tuple(int(part) for part in re.findall(r"\d+", version))

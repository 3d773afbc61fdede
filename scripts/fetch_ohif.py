"""Fetches OHIF's built viewer (npm package @ohif/app, MIT licence), checks it, and unpacks it.

    python scripts/fetch_ohif.py [FOLDER]

FOLDER is `$ISOCENTER_OHIF` or `.cache/ohif` by default; the viewer is then in FOLDER/dist. With
`OHIF_TARBALL=ohif-app-<version>.tgz`, a package that is already here, no network is needed.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "3.13.2"
# `npm view @ohif/app@3.13.2 dist.integrity`
SHA512 = "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="

SQUEEZED = frozenset({".js", ".css", ".wasm", ".svg"})
WITHOUT = "Without OHIF there is no viewer and no browser test; all else works (routing, results, the list of jobs)."


class FetchError(Exception):
    """OHIF could not be had; the message says why and what to do."""


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ISOCENTER_OHIF", ".cache/ohif"))
    mark = folder / "version"
    if mark.is_file() and mark.read_text().strip() == VERSION:
        return 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".ohif-") as work:
            package = unpacked(checked(tarball(Path(work))), Path(work))
            squeeze(package / "dist")
            (package / "version").write_text(f"{VERSION}\n")
            shutil.rmtree(folder, ignore_errors=True)
            package.rename(folder)
    except (FetchError, OSError) as error:
        sys.stderr.write(f"OHIF {VERSION} was not fetched: {error}\n{WITHOUT}\n")
        return 1
    sys.stderr.write(f"OHIF {VERSION} is in {folder / 'dist'}\n")
    return 0


def tarball(work: Path) -> Path:
    """The package's file, from where the environment says or from the npm registry."""
    given = os.environ.get("OHIF_TARBALL")
    if given:
        return Path(given)
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError("npm is missing. To get it: apt-get install npm, then make ohif")
    sys.stderr.write(f"fetching OHIF {VERSION} (50 MB) from the npm registry\n")
    done = subprocess.run(
        [npm, "pack", "--silent", f"@ohif/app@{VERSION}"],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    files = list(work.glob("*.tgz"))
    if done.returncode != 0 or not files:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FetchError(
            f"`npm pack` failed ({reason}). Try again, or give the file: OHIF_TARBALL=... make ohif"
        )
    return files[0]


def checked(file: Path) -> Path:
    """The file, if it is the one that is pinned."""
    with file.open("rb") as content:
        digest = base64.b64encode(hashlib.file_digest(content, "sha512").digest()).decode()
    if digest != SHA512:
        raise FetchError(
            f"{file.name} is not the pinned package (its sha512 is {digest}), so it was not unpacked"
        )
    return file


def unpacked(file: Path, work: Path) -> Path:
    """The package's folder, in `work`. Its bytes are the pinned ones, so its names need no filter.

    Debian 12's Python 3.11.2 has none; where there is one, Python 3.12 warns of going without.
    """
    with tarfile.open(file) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(work)
    return work / "package"


def squeeze(dist: Path) -> None:
    """Keep what is large gzipped as well: 17 MB of script are 3 MB on the wire. Source maps are not needed."""
    for file in dist.rglob("*"):
        if file.suffix == ".map":
            file.unlink()
        elif file.suffix in SQUEEZED and file.stat().st_size > 2048 and "ort" not in file.parts:
            with file.open("rb") as plain, gzip.open(f"{file}.gz", "wb", compresslevel=6) as compressed:
                shutil.copyfileobj(plain, compressed)


if __name__ == "__main__":
    sys.exit(main())

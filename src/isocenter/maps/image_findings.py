"""What is wrong with how a package's image is started, and with what it was built on."""

from __future__ import annotations

import re
from collections.abc import Iterator

from isocenter.maps.finding import Finding, error, warning
from isocenter.maps.inspection import base_of
from isocenter.maps.package import Package
from isocenter.maps.path_findings import program_of
from isocenter.maps.user import UnknownUser, user_of

__all__ = ["image_findings"]

_PLATFORMS = ("linux/amd64", "linux/arm64")
_SECRET = re.compile(r"(PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|PRIVATE_?KEY|CREDENTIALS?)(_|$)", re.IGNORECASE)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def image_findings(package: Package) -> Iterator[Finding]:
    """Nothing of a package that is a folder: it does not say how it is started."""
    if package.image is None:
        return
    platform = f"{package.config.os}/{package.config.architecture}"
    if platform not in _PLATFORMS:
        yield error(
            "platform",
            "image",
            f"it is built for {platform}",
            f"the specification knows {', '.join(_PLATFORMS)}",
        )
    yield from _user(package)
    yield from _start(package)
    yield from _base(package)
    for name, value in package.config.config.environment.items():
        if _SECRET.search(name) and value:
            yield warning(
                "secret-in-environment",
                f"image Env {name}",
                "whoever has the image has this secret",
                "give it when the package is run, and change it where it was used",
            )


def _user(package: Package) -> Iterator[Finding]:
    user = user_of(package)
    if isinstance(user, UnknownUser):
        yield error(
            "user-unknown",
            "image User",
            f"there is no {user.name!r} in the image: it does not start",
            "make that user",
        )
    elif user.uid == 0:
        yield warning(
            "runs-as-root",
            "image User",
            "the application runs as root: what it writes belongs to root, and clusters refuse it",
            "make a user when the image is built, and end the Dockerfile with USER",
        )


def _start(package: Package) -> Iterator[Finding]:
    started = package.config.config
    if not started.argv:
        yield error(
            "entrypoint-missing",
            "image Entrypoint",
            "started without arguments it has nothing to run, and has to run the application",
            "state an entrypoint that runs the command of the manifest",
        )
        return
    program = program_of(package, started.argv[0], started.working_dir or "/")
    if program is None or program.kind != "file":
        yield error(
            "entrypoint-program-missing",
            "image Entrypoint",
            f"{started.argv[0]} is not in the image",
            "install it, or name what is there",
        )
    elif not program.mode & 0o111:
        yield error("entrypoint-not-executable", f"/{program.path}", "it can not be executed", "chmod +x it")


def _base(package: Package) -> Iterator[Finding]:
    base = base_of(package)
    if base is None:
        yield warning(
            "base-unknown",
            "image Labels",
            "no label says what it was built on, so nobody knows which security updates it lacks",
            "label it org.opencontainers.image.base.name and org.opencontainers.image.base.digest",
        )
    elif not _DIGEST.search(base):
        yield warning(
            "base-unpinned",
            "image Labels",
            f"it was built on {base}, which may be another image tomorrow",
            "build it on a digest (FROM name@sha256:...), and label it org.opencontainers.image.base.digest",
        )

"""A root that debootstrap made, brought up to date: it installs a release as it was on its first day."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from isocenter.maps import namespaces
from isocenter_operators.errors import ConfigurationError, Unavailable

__all__ = ["Sources", "without_credentials"]

_DEBIAN = "http://deb.debian.org/debian"
_UBUNTU = "http://archive.ubuntu.com/ubuntu"
_UBUNTU_SUITES = ("jammy", "noble")
_SAID_AT_MOST = 3  # lines
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")
_APT = (
    *("apt-get", "--quiet", "--yes", "--no-install-recommends"),
    *("-o", "APT::Sandbox::User=root", "-o", "Dpkg::Options::=--force-confold", "-o", "Dpkg::Use-Pty=false"),
)


@dataclass(frozen=True)
class Sources:
    """Where a suite's packages are, and where its updates. mirror, security: as whoever asks gives them, or ""."""

    suite: str
    mirror: str = ""
    security: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """Of sources.list(5). Raises ConfigurationError where nobody can tell where the security updates are."""
        if self.suite in _UBUNTU_SUITES:
            mirror, security = self.mirror or _UBUNTU, self.security or self.mirror or _UBUNTU
        else:
            mirror = self.mirror or _DEBIAN
            security = self.security or re.sub(r"/debian(?=/|$)", "/debian-security", mirror)
            if security == mirror and not self.security:
                raise ConfigurationError(
                    f"--mirror {without_credentials(mirror)}: say where the security updates are, by "
                    "--security-mirror; Debian's own are at http://deb.debian.org/debian-security"
                )
        option = "[check-valid-until=no] " if "snapshot" in mirror else ""  # of a day that is over
        return (
            f"deb {option}{mirror} {self.suite} main",
            f"deb {option}{mirror} {self.suite}-updates main",
            f"deb {option}{security} {self.suite}-security main",
        )

    def bring_up_to_date(self, root: Path, tell: Callable[[str], None]) -> None:
        """Install what is newer there than in `root`, which names these sources from then on. As root.

        User and password of a mirror are used here, and stand nowhere afterwards: the root goes into images.

        Raises Unavailable where apt can not.
        """
        text, file = "".join(f"{line}\n" for line in self.lines), root / "etc/apt/sources.list"
        file.write_text(text)
        with _this_machines_names(root):
            tell("Installing updates")
            for step in ("update", "dist-upgrade", "clean"):
                _apt(root, step)
        file.write_text(without_credentials(text))


def without_credentials(text: str) -> str:
    """The text with no user and no password in its addresses."""
    return _CREDENTIALS.sub("", text)


@contextmanager
def _this_machines_names(root: Path) -> Iterator[None]:
    """Meanwhile the mirror is found as it is here."""
    files = {name: root / "etc" / name for name in ("hosts", "resolv.conf")}
    before = {name: file.read_bytes() for name, file in files.items() if file.is_file()}
    for name, file in files.items():
        if Path("/etc", name).is_file():
            shutil.copyfile(Path("/etc", name), file)
    try:
        yield
    finally:
        for name, file in files.items():
            file.unlink(missing_ok=True)
            if name in before:
                file.write_bytes(before[name])


def _apt(root: Path, step: str) -> None:
    command = ["chroot", str(root), *_APT, step]
    if namespaces.available():  # some packages' scripts look into /proc
        script = 'mount -t proc proc "$0/proc" 2>/dev/null; exec "$@"'
        command = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, str(root), *command]
    environment = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SOURCE_DATE_EPOCH": "0",
        "TMPDIR": "/tmp",
    }
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    # That it could not reach a mirror is a warning to apt.
    missed = [line for line in lines if line.startswith(("W: Failed to fetch", "Err:"))]
    if done.returncode != 0 or missed:
        said = " / ".join((missed or lines)[-_SAID_AT_MOST:])
        raise Unavailable(
            f"the base could not be brought up to date: apt-get {step}: {without_credentials(said)}"
        )

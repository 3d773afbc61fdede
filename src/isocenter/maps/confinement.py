"""The first process in the namespaces that `unshare` made: `python confinement.py PLAN`. Standard library only.

It may do everything there and is trusted; the package, which it starts, is not. So before the package begins, it is put
into a user namespace of its own, in which it is nobody outside, owns none of the mounts, and has no way to gain rights.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import shutil
import socket
import struct
import sys
from pathlib import Path
from typing import Any

__all__ = ["main"]

# <sys/mount.h>
_READ_ONLY, _NO_SET_UID, _NO_DEVICES, _NO_EXECUTION = 1, 2, 4, 8
_REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 32, 4096, 16384, 1 << 18
# <linux/sched.h>
_NEW_MOUNTS, _NEW_USERS = 0x00020000, 0x10000000
# <sys/prctl.h>
_SET_DUMPABLE, _SET_SECCOMP, _SET_NO_NEW_PRIVILEGES = 4, 22, 38
_FILTER, _INSTRUCTION = 2, 8  # <linux/seccomp.h>, <linux/filter.h>; bytes
# <linux/sockios.h>, <net/if.h>
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_FAILED = 126  # what a shell answers when it can not run a command


class _Program(ctypes.Structure):
    """struct sock_fprog, of <linux/filter.h>."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


_libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    plan = json.loads(Path(sys.argv[1]).read_text())
    _check(_libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0), "prctl")
    socket.sethostname("map")
    if not plan["network"]:
        _raise_loopback()
    _make_root(plan)
    child = os.fork()
    if child == 0:
        try:
            _become(plan)
        except OSError as error:
            sys.stderr.write(f"the package could not be started: {error}\n")
            sys.stderr.flush()
        os._exit(_FAILED)
    return _wait(child)


def _wait(child: int) -> int:
    """How the package ended. What it left running ends with this process, which is the first of its namespace."""
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _make_root(plan: dict[str, Any]) -> None:
    root = plan["root"]
    _mount("none", "/", "", _RECURSIVE | _PRIVATE, "")
    _mount("tmpfs", root, "tmpfs", _NO_SET_UID | _NO_DEVICES, "mode=755")
    for mount in plan["mounts"]:
        _add(root, **mount)
    for device in plan["devices"]:
        _bind(device, root + device, 0)
    _mount("none", root, "", _REMOUNT | _BIND | _READ_ONLY | _NO_SET_UID | _NO_DEVICES, "")


def _add(root: str, kind: str, target: str, source: str, size: int) -> None:
    place = root + target
    if kind in ("read", "write"):
        _bind(source, place, _READ_ONLY if kind == "read" else 0)
    elif kind == "memory":
        Path(place).mkdir(parents=True, exist_ok=True)
        _mount("tmpfs", place, "tmpfs", _NO_SET_UID | _NO_DEVICES, f"mode=1777,size={size}")
    elif kind == "folder":
        Path(place).mkdir(parents=True, exist_ok=True)
    elif kind == "link":
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).symlink_to(source)
    elif kind == "processes":
        _processes(place)
    else:
        _devices(place, size)


def _bind(source: str, place: str, flags: int) -> None:
    _make_place(Path(source), Path(place))
    _mount(source, place, "", _BIND | _RECURSIVE, "")
    flags |= _NO_SET_UID | (0 if source.startswith("/dev/") else _NO_DEVICES)
    for point in _mounted_at_and_below(place):  # each has flags of its own
        kept = os.statvfs(point).f_flag & (
            os.ST_NOEXEC | os.ST_RDONLY
        )  # what a user namespace may not take away
        _mount("none", point, "", _REMOUNT | _BIND | flags | kept, "")


def _mounted_at_and_below(place: str) -> list[str]:
    """Where something is mounted, by proc(5), mountinfo."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [
        re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4]) for line in lines
    ]
    return [point for point in dict.fromkeys(points) if point == place or point.startswith(f"{place}/")]


def _make_place(source: Path, place: Path) -> None:
    if source.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.touch()


def _processes(place: str) -> None:
    Path(place).mkdir(exist_ok=True)
    _mount("proc", place, "proc", _NO_SET_UID | _NO_DEVICES | _NO_EXECUTION, "")


def _devices(place: str, shared_memory: int) -> None:
    Path(place).mkdir(exist_ok=True)
    _mount("tmpfs", place, "tmpfs", _NO_SET_UID, "mode=755")
    for name in _DEVICES:
        _bind(f"/dev/{name}", f"{place}/{name}", 0)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        Path(place, name).symlink_to(f"/proc/self/fd{target}")
    Path(place, "shm").mkdir()
    _mount("tmpfs", f"{place}/shm", "tmpfs", _NO_SET_UID | _NO_DEVICES, f"mode=1777,size={shared_memory}")


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        given = fcntl.ioctl(any_socket, _GET_FLAGS, struct.pack("16sh14x", b"lo", 0))
        flags = struct.unpack("16sh14x", given)[1]
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))


def _become(plan: dict[str, Any]) -> None:
    """Leave everything behind, and be the package."""
    os.setsid()
    uid, gid, own_uid, own_gid = plan["uid"], plan["gid"], os.geteuid(), os.getegid()
    _check(_libc.unshare(_NEW_USERS | _NEW_MOUNTS), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {own_uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {own_gid} 1")
    os.chroot(plan["root"])
    os.chdir("/")  # until then it is outside, and so would be whatever is named from here
    os.chdir(plan["directory"])
    os.closerange(3, 1 << 16)
    _check(_libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")
    # Who is not root in his namespace loses all rights in it by this.
    environment = plan["environment"]
    _filter_calls(bytes.fromhex(plan["filter"]))
    program = shutil.which(plan["arguments"][0], path=environment.get("PATH")) or plan["arguments"][0]
    os.execve(program, plan["arguments"], environment)


def _filter_calls(program: bytes) -> None:
    """From here on, and in all that comes of this process."""
    if program:
        given = _Program(len(program) // _INSTRUCTION, program)
        _check(_libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(given), 0, 0), "prctl")


def _mount(source: str, place: str, kind: str, flags: int, options: str) -> None:
    done = _libc.mount(
        source.encode(), place.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    _check(done, f"mount {place}")


def _check(answer: int, what: str) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main())

"""What a confined package may not ask of the kernel: a filter of its calls, as Docker and Podman bring one themselves.

A package needs none of these, and none of them would be granted to it but for a mistake in the kernel; where there were
such mistakes, it was mostly in these. The filter is a program of the kernel's own small machine, by seccomp(2).
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Mapping

__all__ = ["DENIED", "program"]

# By the kernel's <asm/unistd.h>: the numbers of x86-64 and of arm64; None where there is no such call.
DENIED: Mapping[str, tuple[int, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
# As if the kernel were older: whoever asks has another way then. What clone3 is asked for lies where a filter can not
# look, so that it would make what clone may not.
_UNKNOWN = (425, 426, 427, 435)  # io_uring_setup, io_uring_enter, io_uring_register, clone3, everywhere
_CLONE = (56, 220)
# <linux/sched.h>: of each kind of namespace
_NAMESPACES = 0x02000000 | 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # <linux/audit.h>
_X32 = 0x40000000  # from this number on: x86-64's calls with other numbers
# <linux/bpf_common.h>
_LOAD, _EQUAL, _AT_LEAST, _ANY_OF, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# <linux/seccomp.h>: what is loaded, and what is answered
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_END, _FAIL, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000


def program(machine: str | None = None) -> bytes:
    """The filter for this machine, or another; empty where none is known for it.

    A call by the numbers of another machine's, as 32-bit programs make them, ends the process.
    """
    column, architecture = _MACHINES.get(machine or platform.machine(), (0, 0))
    if not architecture:
        return b""
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, architecture, over_if=1),
        _step(_RETURN, _END),
        _step(_LOAD, _NUMBER),
    ]
    if column == 0:
        steps += [_step(_AT_LEAST, _X32, over_else=1), _step(_RETURN, _FAIL | errno.ENOSYS)]
    for number in _UNKNOWN:
        steps += [_step(_EQUAL, number, over_else=1), _step(_RETURN, _FAIL | errno.ENOSYS)]
    for numbers in DENIED.values():
        number_here = numbers[column]
        if number_here is not None:
            steps += [_step(_EQUAL, number_here, over_else=1), _step(_RETURN, _FAIL | errno.EPERM)]
    steps += [
        _step(_EQUAL, _CLONE[column], over_else=3),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_ANY_OF, _NAMESPACES, over_else=1),
        _step(_RETURN, _FAIL | errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(steps)


def _step(code: int, value: int, *, over_if: int = 0, over_else: int = 0) -> bytes:
    """One instruction; over_if, over_else: how many of the next are left out, where it compares."""
    return struct.pack("<HBBI", code, over_if, over_else, value)

"""What a package can not ask of the kernel, tried from within; and what packages are made of asks for none of it."""

from __future__ import annotations

import errno
import io
import json
import platform
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from map_cases import PYTHON, good

from isocenter.cli.main import main
from isocenter.maps import bubblewrap, namespaces, seccomp
from isocenter_operators.testing.phantom import thorax_phantom
from isocenter_operators.testing.series import write_series

ENGINES = [
    pytest.param("bubblewrap", marks=pytest.mark.skipif(not bubblewrap.available(), reason="no bubblewrap")),
    pytest.param("namespaces", marks=pytest.mark.skipif(not namespaces.available(), reason="no namespaces")),
]
_SIGSYS = 31
_COLUMNS = {"x86_64": 0, "aarch64": 1}
pytestmark = pytest.mark.skipif(
    platform.machine() not in _COLUMNS, reason="no filter is known for this machine"
)

# Each with arguments that would do no harm where it worked.
INSIDE = """
import ctypes, json, mmap, os, signal
libc = ctypes.CDLL(None, use_errno=True)
numbers = json.loads(os.environ["CALLS"])

def ask(number, *arguments):
    ctypes.set_errno(0)
    answer = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    return 0 if answer >= 0 else ctypes.get_errno()

found = {name: ask(number, -1, 0, 0, 0, 0, 0) for name, number in numbers.items()}
found["its own keyring"] = ask(numbers["keyctl"], 0, -2, 1)
found["its own memory, as another's"] = ask(numbers["process_vm_readv"], os.getpid(), 0, 0, 0, 0, 0)
found["to be followed"] = ask(numbers["ptrace"], 0, 0, 0, 0)
found["a user namespace"] = ask(numbers["clone"], 0x10000000 | 17, 0, 0, 0, 0)
if found["a user namespace"] == 0:
    os._exit(0)
found["x32"] = ask(0x40000000 | 39)
found["files"] = sorted(set(os.listdir("/proc/self/fd")) - {"0", "1", "2", "3"})
found["filtered"] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("Seccomp:")]
if os.uname().machine == "x86_64":  # getpid as a 32-bit program asks for it
    child = os.fork()
    if child == 0:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(bytes.fromhex("b814000000cd80c3"))
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
        os._exit(0)
    found["32-bit"] = os.WTERMSIG(os.waitpid(child, 0)[1])
json.dump(found, open("/var/holoscan/output/found.json", "w"))
"""


@pytest.mark.skipif(not PYTHON.exists(), reason="packages here are run with the system's Python")
@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_package_asks_of_the_kernel(engine: str, tmp_path: Path) -> None:
    recipe = good()
    del recipe.content.files["usr/bin/python3"]
    recipe.content.executable.clear()
    recipe.content.files["opt/holoscan/app/__main__.py"] = INSIDE.encode()
    calls = _numbers()
    recipe.app["environment"]["CALLS"] = json.dumps(calls)
    write_series(thorax_phantom(size=(16, 16, 1), spacing_mm=(22.0, 22.0, 60.0)), tmp_path / "images")
    package = recipe.write_folder(tmp_path / "package")
    words = ["map", "run", str(package), "-i", str(tmp_path / "images"), "-o", str(tmp_path / "out")]
    with redirect_stdout(io.StringIO()):
        main([*words, "--engine", engine, "--json"])
    found: dict[str, Any] = json.loads((tmp_path / "out" / "found.json").read_text())
    assert found.pop("filtered") == ["2"]
    assert found.pop("files") == []
    assert found.pop("32-bit", _SIGSYS) == _SIGSYS
    unknown = {name: found.pop(name) for name in ("clone3", "io_uring_setup", "io_uring_enter", "x32")}
    assert set(unknown.values()) == {errno.ENOSYS}, unknown
    found.pop("clone")
    assert set(found.values()) == {errno.EPERM}, found


def _numbers() -> dict[str, int]:
    column = _COLUMNS[platform.machine()]
    both = {**seccomp.DENIED, "clone": (56, 220), "clone3": (435, 435)}
    both |= {"io_uring_setup": (425, 425), "io_uring_enter": (426, 426)}
    return {name: here for name, numbers in both.items() if (here := numbers[column]) is not None}


HEADERS = {
    0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    1: Path("/usr/include/asm-generic/unistd.h"),  # arm64's are these
}


@pytest.mark.parametrize("column", HEADERS)
def test_the_numbers_are_the_kernels(column: int) -> None:
    if not HEADERS[column].exists():
        pytest.skip("the kernel's headers are not installed: apt-get install linux-libc-dev")
    lines = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[column].read_text())
    known = {name: int(number) for name, number in lines}
    assert {name: numbers[column] for name, numbers in seccomp.DENIED.items()} == {
        name: known.get(name) for name in seccomp.DENIED
    }
    for name in ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"):
        assert known[name] in seccomp._UNKNOWN
    assert known["clone"] == seccomp._CLONE[column]


USES = """
import io, subprocess, threading
import numpy, pydicom, torch
from highdicom.color import ColorManager
from isocenter_operators.testing.phantom import thorax_phantom
from isocenter_operators.testing.series import as_datasets
model = torch.nn.Conv3d(1, 2, 3)
scripted = torch.jit.trace(model, torch.zeros(1, 1, 8, 8, 8))
loader = torch.utils.data.DataLoader(numpy.arange(8.0), num_workers=2)
assert float(sum(each.sum() for each in loader)) == 28
assert scripted(torch.rand(1, 1, 16, 16, 16)).shape == (1, 2, 14, 14, 14)
for image in as_datasets(thorax_phantom(size=(16, 16, 2), spacing_mm=(22.0, 22.0, 60.0))):
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    file.seek(0)
    assert pydicom.dcmread(file).pixel_array.shape == (16, 16)
assert subprocess.run(["true"]).returncode == 0
threads = [threading.Thread(target=numpy.linalg.svd, args=(numpy.random.rand(64, 64),)) for _ in range(4)]
for each in threads: each.start()
for each in threads: each.join()
status = open("/proc/self/status").read()
print("works", status.split("Seccomp:")[1].split()[0])
"""
FILTERED = """
import os, sys
from isocenter.maps import confinement, seccomp
confinement._libc.prctl(confinement._SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
confinement._filter_calls(seccomp.program())
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""


def test_what_packages_are_made_of_works() -> None:
    """PyTorch with processes of its own, NumPy with threads, pydicom, programs that are started."""
    done = subprocess.run([sys.executable, "-c", FILTERED, USES], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("works 2"), done.stderr[-2000:]


def test_a_machine_that_is_not_known_has_none() -> None:
    assert seccomp.program("riscv64") == b""
    assert seccomp.program("aarch64") != seccomp.program("x86_64") != b""

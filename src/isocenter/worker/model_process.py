"""The embedded Triton as this machine sees it: the server's process, and those of its Python models."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from isocenter.settings import Settings
from isocenter_operators.inference.shared_memory import SHARED_MEMORY

__all__ = ["ModelProcess", "Server"]

_STUB = "triton_python_backend_stub"
_REGION_PREFIX = "shm-region-prefix-name="


@dataclass(frozen=True)
class ModelProcess:
    """One instance of a Python model: its process, the model's name and version, its shared memory region."""

    process: psutil.Process
    model: str
    version: str
    region: str

    @property
    def lives(self) -> bool:
        try:
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def interrupt(self) -> bool:
        """Raise an exception in its call, as soon as that is in Python. False when it does not listen."""
        if not self._listens():
            return False
        try:
            self.process.send_signal(signal.SIGUSR1)
        except psutil.NoSuchProcess:
            return False
        return True

    def _listens(self) -> bool:
        """Whether it takes SIGUSR1 (see `isocenter.stack.triton_stub`), which would kill it otherwise."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return False
        caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(caught, 16) >> (signal.SIGUSR1 - 1) & 1)


@dataclass(frozen=True)
class Server:
    """The tritonserver that serves the port of our settings from our own data folder."""

    process: psutil.Process
    region_prefix: str

    @classmethod
    def running(cls, settings: Settings) -> Self | None:
        """Ours, or None: the same user, the same data folder, the same port."""
        folder = settings.data_dir.resolve() / "triton" / "backends"
        ours = {f"--backend-directory={folder}", f"--grpc-port={settings.triton.grpc_port}"}
        for process in psutil.process_iter():
            arguments = _arguments(process)
            # The launcher has the same arguments until it has become the server.
            if arguments and Path(arguments[0]).name == "tritonserver" and ours <= set(arguments):
                prefix = next(
                    (each.partition(_REGION_PREFIX)[2] for each in arguments if _REGION_PREFIX in each), ""
                )
                return cls(process, prefix)
        return None

    def models(self) -> list[ModelProcess]:
        """Every process of a Python model that lives."""
        found = []
        for process in self._children():
            # STUB .../<model>/<version>/model.py REGION ...
            arguments = _arguments(process)
            if len(arguments) > 2 and Path(arguments[0]).name == _STUB:
                version = Path(arguments[1]).parent
                found.append(ModelProcess(process, version.parent.name, version.name, arguments[2]))
        return found

    def of(self, model: str, version: str = "") -> list[ModelProcess]:
        """The processes of one model, one for each instance; of all its versions where none is named."""
        return [each for each in self.models() if each.model == model and version in ("", each.version)]

    def abandoned_bytes(self) -> int:
        """Shared memory of models' processes that were killed: the server keeps it until it ends itself."""
        used = {each.region for each in self.models()}
        regions = SHARED_MEMORY.glob(f"{self.region_prefix}*") if self.region_prefix else ()
        return sum(_size(path) for path in regions if path.name not in used)

    def _children(self) -> list[psutil.Process]:
        try:
            return self.process.children(recursive=True)
        except psutil.NoSuchProcess:
            return []


def _arguments(process: psutil.Process) -> list[str]:
    """The command line of a process of this user that lives, else nothing."""
    try:
        if process.uids().effective != os.geteuid():
            return []
        return process.cmdline()
    except psutil.Error:  # it has ended, is a zombie, or is not ours to see
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0

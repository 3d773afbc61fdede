"""Sends into a folder: `<Study Instance UID>/<SOP Instance UID>.dcm`, each file whole or not there."""

from __future__ import annotations

import errno
import filecmp
import os
import re
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from isocenter.onward.delivery import Delivery
from isocenter.onward.instance import Instance
from isocenter.onward.sender import refuse
from isocenter.peer import FolderPeer
from isocenter_operators.errors import InputError, StorageFull, Unavailable

__all__ = ["FolderSender"]

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # PS3.5, 9.1; nothing else may name a file


class FolderSender:
    """Writes into a folder that must be there: a disk that is not mounted must not look like an empty folder."""

    def __init__(self, peer: FolderPeer) -> None:
        self._folder = peer.path

    def send(self, instances: Sequence[Instance], delivery: Delivery) -> None:
        """See Sender. A file of this name with the same content is left as it is."""
        if not self._folder.is_dir():
            raise Unavailable(f"the folder {self._folder} is not there: make it, or mount its disk")
        if not _UID.fullmatch(delivery.study_uid):
            raise InputError("refused: the Study Instance UID of this job can not name a folder")
        refused: dict[str, str] = {}
        try:
            study = self._folder / delivery.study_uid
            study.mkdir(exist_ok=True)
            mode = stat.S_IMODE(self._folder.stat().st_mode)
            _open_to(study, mode)
            for instance in instances:
                reason = _put(instance, study, mode)
                if reason:
                    refused[instance.sop_instance_uid] = reason
            _flush(study)
            _flush(self._folder)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(f"no room left in {self._folder}") from error
            raise Unavailable(f"{self._folder} can not be written to: {error.strerror}") from error
        refuse(str(self._folder), refused, len(instances))


def _put(instance: Instance, study: Path, mode: int) -> str:
    """Why it was not written, or ""."""
    if not _UID.fullmatch(instance.sop_instance_uid):
        return "its SOP Instance UID can not name a file"
    file = study / f"{instance.sop_instance_uid}.dcm"
    if file.exists():
        same = filecmp.cmp(instance.path, file, shallow=False)
        return "" if same else "another file of this name is there"
    aside = study / f".{instance.sop_instance_uid}.part"
    with instance.path.open("rb") as content, aside.open("wb") as written:
        shutil.copyfileobj(content, written, 1 << 20)
        written.flush()
        os.fsync(written.fileno())
    _open_to(aside, 0o600 | mode & 0o044)
    aside.replace(file)
    return ""


def _open_to(path: Path, mode: int) -> None:
    """Let in whom the destination's own folder lets in: the service itself makes what only its user may read."""
    if stat.S_IMODE(path.stat().st_mode) != mode:
        with suppress(OSError):  # somebody else's, or of a file system without modes: delivered all the same
            path.chmod(mode)


def _flush(folder: Path) -> None:
    """Names are on the disk only when their folder is."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network file systems that know no such thing
            raise
    finally:
        os.close(opened)

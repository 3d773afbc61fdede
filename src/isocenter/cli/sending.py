"""Sends DICOM files to the archive, by C-STORE or STOW-RS, with progress."""

from __future__ import annotations

import itertools
import logging
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import MediaStorageDirectoryStorage
from pynetdicom import AE, evt
from pynetdicom.association import Association
from rich.console import Console
from rich.progress import Progress

from isocenter.cli.output import counted
from isocenter.pacs import dicomweb_of
from isocenter.settings import OrthancSettings, Settings
from isocenter_operators.dicom.series.read import read_file
from isocenter_operators.errors import ArchiveUnavailable, IsocenterError, UnreadableInput

__all__ = ["Sent", "files_below", "send"]

_CONTEXTS = 128  # of one association (PS3.8, 9.3.2.2)
_BATCH = 25  # instances of one STOW-RS request
_TIMEOUT_S = 30.0
_TRIES = 2  # of one instance, the second on a new association

_Context = tuple[str, str]  # SOP Class UID, Transfer Syntax UID


@dataclass
class Sent:
    """How a sending went. `skipped` maps DICOM files to the reason why they were not sent."""

    where: str
    count: int = 0
    study_uids: set[str] = field(default_factory=set)
    series_uids: set[str] = field(default_factory=set)
    sop_instance_uids: set[str] = field(default_factory=set)
    skipped: dict[Path, str] = field(default_factory=dict)
    not_dicom: list[Path] = field(default_factory=list)  # a licence, notes: passed over, no fault

    def add(self, instance: FileDataset) -> None:
        self.count += 1
        self.study_uids.add(str(instance.StudyInstanceUID))
        self.series_uids.add(str(instance.SeriesInstanceUID))
        self.sop_instance_uids.add(str(instance.SOPInstanceUID))

    def as_json(self) -> dict[str, Any]:
        return {
            "sent": self.count,
            "to": self.where,
            "study_uids": sorted(self.study_uids),
            "not_sent": [{"path": str(path), "reason": reason} for path, reason in self.skipped.items()],
            "not_dicom": [str(path) for path in self.not_dicom],
        }


def send(path: Path, settings: Settings, *, aet: str | None = None, stow: bool = False) -> Sent:
    """Send every DICOM file below `path`, in the transfer syntax it has there.

    A damaged file is passed over with its reason; what is not DICOM at all is only noted. Raises UnreadableInput
    when there is nothing to send, ArchiveUnavailable when nobody takes it.
    """
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    files = files_below(path)
    orthanc = settings.orthanc
    host = orthanc.host if orthanc.embedded else urlsplit(orthanc.rest_url).hostname or orthanc.host
    called = aet or orthanc.aet
    sent = Sent(where=orthanc.dicomweb_url if stow else f"{called}@{host}:{orthanc.dicom_port}")
    console = Console(stderr=True)
    # Where nobody looks, all that it would leave is an empty line.
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        contexts = _contexts(progress.track(files, description="looking"), sent)
        if not contexts:
            raise UnreadableInput(_nothing(path, sent), path=str(path))
        sending = progress.track(_readable(contexts, sent), total=len(contexts), description="sending")
        if stow:
            _stow(sending, orthanc, sent)
        else:
            with _Sender(called, host, orthanc.dicom_port, sorted(set(contexts.values()))) as sender:
                _store(sending, sender, sent)
    return sent


def files_below(path: Path) -> list[Path]:
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    if not files:
        raise UnreadableInput(f"{path} is empty: there is nothing to send", path=str(path))
    return files


def _nothing(path: Path, sent: Sent) -> str:
    looked_at = len(sent.skipped) + len(sent.not_dicom)
    if sent.skipped:
        file, reason = next(iter(sent.skipped.items()))
        return f"no DICOM file in {path} can be sent: {looked_at} were looked at; {file.name}: {reason}"
    return f"no DICOM images in {path}: {counted(looked_at, 'file')} looked at, not DICOM"


def _contexts(files: Iterable[Path], sent: Sent) -> dict[Path, _Context]:
    """What each DICOM file holds; the others are noted."""
    found: dict[Path, _Context] = {}
    for file in files:
        try:
            meta = dcmread(file, specific_tags=["SOPClassUID"], stop_before_pixels=True).file_meta
            context = (str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))
        except InvalidDicomError:
            sent.not_dicom.append(file)
            continue
        except (EOFError, AttributeError, ValueError):
            sent.skipped[file] = "its DICOM header is damaged"
            continue
        except OSError as error:
            sent.skipped[file] = f"can not be read: {error.strerror}"
            continue
        if context[0] != MediaStorageDirectoryStorage:
            found[file] = context
    return found


def _readable(files: Iterable[Path], sent: Sent) -> Iterator[tuple[Path, FileDataset]]:
    for file in files:
        try:
            instance = read_file(file)
        except UnreadableInput as error:
            sent.skipped[file] = str(error).removeprefix(f"{file} ")
            continue
        if instance is not None:
            yield file, instance


def _stow(instances: Iterable[tuple[Path, FileDataset]], orthanc: OrthancSettings, sent: Sent) -> None:
    with dicomweb_of(orthanc) as client:
        remaining = iter(instances)
        while batch := list(itertools.islice(remaining, _BATCH)):
            try:
                client.store([instance for _, instance in batch])
            except ArchiveUnavailable:
                raise
            except IsocenterError as error:
                sent.skipped.update({file: str(error) for file, _ in batch})
                continue
            for _, instance in batch:
                sent.add(instance)


def _store(instances: Iterable[tuple[Path, FileDataset]], sender: _Sender, sent: Sent) -> None:
    for file, instance in instances:
        reason = sender.store(instance)
        if reason:
            sent.skipped[file] = reason
        else:
            sent.add(instance)


def _refusal(status: int) -> str:
    """Why an image was refused, by a C-STORE response (PS3.4, B.2.3), or "". A warning stored it, with a remark."""
    if status == 0 or 0xB000 <= status <= 0xBFFF:
        return ""
    why = " (out of resources: is its disk full?)" if 0xA700 <= status <= 0xA7FF else ""
    return f"the archive refused it with status 0x{status:04X}{why}"


class _Sender:
    """C-STORE to one archive; as many associations as the contexts need. Raises ArchiveUnavailable."""

    def __init__(self, called: str, host: str, port: int, contexts: list[_Context]) -> None:
        self._called = called
        self._host = host
        self._port = port
        # An association has room for 128 contexts: those of one file are in exactly one of them.
        self._place = {context: index // _CONTEXTS for index, context in enumerate(contexts)}
        self._associations: dict[int, Association] = {}

    def __enter__(self) -> _Sender:
        return self

    def __exit__(self, *_: object) -> None:
        for association in self._associations.values():
            if association.is_established:
                association.release()

    def store(self, instance: FileDataset) -> str:
        """Why the archive did not take the instance, or ""."""
        context = (str(instance.SOPClassUID), str(instance.file_meta.TransferSyntaxUID))
        place = self._place.get(context, 0)
        for _ in range(_TRIES):
            association = self._association(place)
            try:
                status = association.send_c_store(instance)
            except ValueError:
                return f"the archive does not accept {instance.SOPClassUID.name} in its transfer syntax"
            except RuntimeError:
                continue  # the archive ended the association a moment ago
            if "Status" in status:
                return _refusal(status.Status)
            association.abort()
        raise ArchiveUnavailable(
            f"the archive at {self._host}:{self._port} stopped answering in the middle; what it had taken "
            "is stored, and sending again is safe"
        )

    def _association(self, place: int) -> Association:
        known = self._associations.get(place)
        if known is not None and known.is_established:
            return known
        entity = AE(ae_title="ISOCENTER-SEND")
        entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = _TIMEOUT_S
        for (sop_class, syntax), where in self._place.items():
            if where == place:
                entity.add_requested_context(sop_class, syntax)
        try:
            # pynetdicom tells a refused connection to its log only, and leaves the socket open.
            socket.create_connection((self._host, self._port), timeout=_TIMEOUT_S).close()
        except OSError as error:
            raise self._away("does not answer") from error
        association = entity.associate(
            self._host, self._port, ae_title=self._called, evt_handlers=[(evt.EVT_CONN_OPEN, _without_delay)]
        )
        if not association.is_established:
            raise self._away("rejects the association" if association.is_rejected else "does not answer")
        self._associations[place] = association
        return association

    def _away(self, why: str) -> ArchiveUnavailable:
        return ArchiveUnavailable(
            f"the archive {self._called} at {self._host}:{self._port} {why}; is it running? "
            "(orthanc.dicom_port, --aet)"
        )


def _without_delay(event: evt.Event) -> None:
    """The end of each image would wait for an acknowledgement of its beginning, which the archive delays."""
    connection = event.assoc.dul.socket.socket
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

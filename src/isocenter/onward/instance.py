"""The instances of one delivery: fetched from our archive into files, all of them or none."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import dcmread

from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.errors import InputError, StorageFull, Unavailable

__all__ = ["Instance", "fetch"]


@dataclass(frozen=True)
class Instance:
    """One instance in a file (PS3.10), and what its file meta information says of it."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


def fetch(archive: DICOMwebClient, wanted: Sequence[Mapping[str, str]], folder: Path) -> list[Instance]:
    """Write these instances below `folder`, and give them in the order they were asked for.

    `wanted` holds per instance its `study_uid`, `series_uid` and `sop_instance_uid`. Raises InputError when one is not
    in the archive any more: half of a set of results says something else than all of it. Raises Unavailable.
    """
    order = [each["sop_instance_uid"] for each in wanted]
    found: dict[str, Instance] = {}
    for study_uid, series_uid in dict.fromkeys((each["study_uid"], each["series_uid"]) for each in wanted):
        try:
            for content in archive.retrieve_series(study_uid, series_uid):
                instance = _instance(content, folder / f"{len(found)}.dcm")
                if instance.sop_instance_uid in order and instance.sop_instance_uid not in found:
                    _write(instance.path, content)
                    found[instance.sop_instance_uid] = instance
        except InputError as error:
            raise InputError(
                f"series {series_uid} can not be had from the archive any more: {error}"
            ) from error
    gone = [uid for uid in order if uid not in found]
    if gone:
        raise InputError(f"{len(gone)} of {len(order)} results are not in the archive any more ({gone[0]})")
    return [found[uid] for uid in dict.fromkeys(order)]


def _instance(content: memoryview, path: Path) -> Instance:
    meta = dcmread(BytesIO(content), specific_tags=["SOPInstanceUID"], stop_before_pixels=True).file_meta
    return Instance(
        path,
        sop_class_uid=str(meta.MediaStorageSOPClassUID),
        sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
        transfer_syntax_uid=str(meta.TransferSyntaxUID),
    )


def _write(path: Path, content: memoryview) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no room left in {path.parent} to fetch results into") from error
        raise Unavailable(f"{path} can not be written: {error.strerror}") from error

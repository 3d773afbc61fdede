"""Decodes compressed frames in a process of its own, which a damaged frame may end, stall or fill without harm.

GDCM's JPEG, JPEG-LS and JPEG 2000 decoders crash, overwrite their own memory or take for ever on some damaged frames,
and fill up what is missing in others with a mere word on standard error. So a small process that has them loaded makes
a copy of itself for each series, which ends with it, or with the first frame that it could not decode: no patient's
image meets what another's has left behind.

Linux only, as Holoscan is: the answer comes back in a file that exists in memory alone.
"""

from __future__ import annotations

import atexit
import importlib
import io
import json
import logging
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

__all__ = ["close", "decode"]

_NUMBERS = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
_DAMAGED = ("Corrupt JPEG data", "Premature end", "Invalid lossless parameters", "Must downscale")
_CPU_S, _CPU_S_PER_MEGAPIXEL = 5, 2  # the slowest codec needs a fifth of a second for a megapixel
_PATIENCE = 20  # times the CPU time, on the clock: other processes want their turn
_MEMORY_BYTES, _MEMORY_PER_PIXEL = 1 << 30, 24  # JPEG 2000 works on 32-bit values, several times over
_REQUEST = struct.Struct("<IQ")  # lengths of the description and of the frame; both 0: the series is over
_ANSWER = struct.Struct("<i")  # 0, or how the copy ended, as `os.waitstatus_to_exitcode` has it
_DECODED, _REFUSED = 0, 1


def decode(frame: bytes, image: Dataset, syntax: UID) -> NDArray[Any]:
    """The stored values of one compressed frame: (Y, X) or (Y, X, samples), of the type that pydicom gives them.

    `image` has the attributes of the Image Pixel module (PS3.3, C.7.6.3) and its series' UID. Raises ValueError, with a
    reason that quotes nothing of the image, where the frame can not be decoded, where decoding it crashes or takes too
    much time or memory, and where the decoder calls it damaged.
    """
    pixels = int(image.Rows) * int(image.Columns)
    description = {
        "syntax": str(syntax),
        "series": str(image.SeriesInstanceUID),
        "cpu_s": _CPU_S + pixels * _CPU_S_PER_MEGAPIXEL // 1_000_000,
        "memory": _MEMORY_BYTES + pixels * _MEMORY_PER_PIXEL * int(image.get("SamplesPerPixel") or 1),
        "numbers": {
            keyword: int(image[keyword].value) for keyword in _NUMBERS if image.get(keyword) is not None
        },
        "photometric": str(image.get("PhotometricInterpretation", "")),
    }
    decoder = _take()
    try:
        decoded = decoder.ask(description, frame)
    finally:
        _give(decoder)
    return decoded


def close() -> None:
    """End the decoding processes that wait for work. The next frame starts another."""
    with _lock:
        waiting, _idle[:] = list(_idle), []
    for decoder in waiting:
        decoder.close()


class _Decoder:
    """One decoding process and the two files in memory that it answers in."""

    def __init__(self) -> None:
        self.usable = True
        self._series = ""
        self._result = os.memfd_create("decoded")
        self._said = os.memfd_create("said")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self._result), str(self._said)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=(self._result, self._said),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # so that it can be ended together with its copy
        )

    def ask(self, description: dict[str, Any], frame: bytes) -> NDArray[Any]:
        for file in (self._result, self._said):
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
        if self._series not in ("", description["series"]):
            self._send(b"", b"")
        self._series = description["series"]
        self._send(json.dumps(description).encode(), frame)
        return self._read(self._answer(description["cpu_s"] * _PATIENCE))

    def _send(self, description: bytes, frame: bytes) -> None:
        assert self._process.stdin is not None
        try:
            for part in (_REQUEST.pack(len(description), len(frame)), description, frame):
                left = memoryview(part)
                while left:
                    left = left[self._process.stdin.write(left) :]
        except BrokenPipeError as error:
            self.usable = False
            raise ValueError("its decoder could not be started, or was ended") from error

    def _answer(self, wait_s: float) -> int:
        assert self._process.stdout is not None
        ready = select.poll()
        ready.register(self._process.stdout, select.POLLIN)
        self.usable = bool(ready.poll(wait_s * 1000))
        if not self.usable:
            raise ValueError(f"its decoder did not end within {wait_s:.0f} s")
        answer = self._process.stdout.read(_ANSWER.size)
        self.usable = len(answer) == _ANSWER.size
        if not self.usable:
            raise ValueError("its decoder could not be started, or was ended")
        code: int = _ANSWER.unpack(answer)[0]
        return code

    def _read(self, code: int) -> NDArray[Any]:
        if code == -signal.SIGXCPU:
            raise ValueError("its decoder did not come to an end")
        if code not in (_DECODED, _REFUSED):
            raise ValueError("its decoder crashed on it")
        content = os.pread(self._result, os.fstat(self._result).st_size, 0)
        if code == _REFUSED:
            raise ValueError(f"its decoder refuses it with a {content.decode(errors='replace')}")
        said = os.pread(self._said, 1 << 16, 0).decode(errors="replace")
        damage = next((word for word in _DAMAGED if word in said), None)
        if damage is not None:
            self._series = "none"  # whatever comes next, comes to another copy
            raise ValueError(f"its decoder calls it damaged ({damage})")
        values: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
        return values

    def close(self) -> None:
        # It leads a session of its own and has not been waited for, so this number can be nobody else's.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        os.close(self._result)
        os.close(self._said)


_lock = threading.Lock()
_idle: list[_Decoder] = []


def _take() -> _Decoder:
    with _lock:
        if _idle:
            return _idle.pop()
    return _Decoder()


def _give(decoder: _Decoder) -> None:
    if not decoder.usable:
        decoder.close()
        return
    with _lock:
        _idle.append(decoder)


atexit.register(close)
os.register_at_fork(after_in_child=_idle.clear)  # a copy of this process must not talk to the same decoders


def _serve(result: int, said: int) -> None:
    """Let a copy of this process decode each series, until there are no more."""
    import gc

    for codec in ("gdcm", "pydicom.pixels"):  # loaded once, here
        importlib.import_module(codec)

    logging.disable(logging.CRITICAL)
    gc.freeze()
    while (request := _next_request()) is not None:
        description, frame = request
        if not description:
            continue
        copy = os.fork()
        if copy == 0:
            _decode_series(description, frame, result, said)
        _, status = os.waitpid(copy, 0)
        code = os.waitstatus_to_exitcode(status)
        if code != _DECODED:  # of what it decoded it has told by itself
            os.write(1, _ANSWER.pack(code))


def _next_request() -> tuple[bytes, bytes] | None:
    lengths = _exactly(_REQUEST.size)
    if lengths is None:
        return None
    of_description, of_frame = _REQUEST.unpack(lengths)
    description, frame = _exactly(of_description), _exactly(of_frame)
    return None if description is None or frame is None else (description, frame)


def _exactly(length: int) -> bytes | None:
    """From standard input, nothing beyond: what comes after may be for another copy. None at its end."""
    content = bytearray()
    while len(content) < length:
        part = os.read(0, length - len(content))
        if not part:
            return None
        content += part
    return bytes(content)


def _decode_series(description: bytes, frame: bytes, result: int, said: int) -> NoReturn:
    """Decode this frame and those that follow, up to the end of the series, or to one that can not be decoded."""
    code = _REFUSED
    try:
        answers = os.dup(1)
        os.dup2(said, 1)
        os.dup2(said, 2)
        _limit(resource.RLIMIT_CORE, 0)
        while description:
            os.pwrite(result, _decoded(json.loads(description), frame), 0)
            os.write(answers, _ANSWER.pack(_DECODED))
            description, frame = _next_request() or (b"", b"")
        code = _DECODED
    except BaseException as error:  # noqa: BLE001 - its kind is the answer; its text may quote anything
        os.ftruncate(result, 0)
        os.pwrite(result, type(error).__name__.encode(), 0)
    finally:
        os._exit(code)


def _decoded(description: dict[str, Any], frame: bytes) -> memoryview:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + description["cpu_s"])
    _limit(resource.RLIMIT_DATA, description["memory"])
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = UID(description["syntax"])
    image.PhotometricInterpretation = description["photometric"]
    for keyword, number in description["numbers"].items():
        setattr(image, keyword, number)
    image.PixelData = encapsulate([frame], has_bot=False)
    image["PixelData"].is_undefined_length = True
    answer = io.BytesIO()
    np.save(answer, image.pixel_array, allow_pickle=False)
    return answer.getbuffer()


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))

"""The series that every benchmark works on: the real chest CT where it is, else a phantom as large."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isocenter.settings import GatewaySettings, OrthancSettings, Settings, TritonSettings
from isocenter_operators.testing import thorax_phantom, write_series

__all__ = ["chest_ct", "embedded_settings"]

_PROJECT = Path(__file__).parent.parent


@contextmanager
def chest_ct() -> Iterator[Path]:
    """A folder with a chest CT of 275 slices of 512 x 512."""
    data = Path(os.environ.get("ISOCENTER_TEST_DATA", _PROJECT.parent / "shared"))
    real = data / "dicom" / "ct-chest-275"
    if real.is_dir():
        yield real
        return
    with tempfile.TemporaryDirectory() as folder:
        write_series(thorax_phantom(size=(512, 512, 275), spacing_mm=(0.78, 0.78, 1.2)), Path(folder))
        yield Path(folder)


@contextmanager
def embedded_settings() -> Iterator[Settings]:
    """Settings of an embedded stack on free ports, with a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        yield Settings(
            data_dir=Path(folder),
            apps_dir=_PROJECT / "apps",
            gateway=GatewaySettings(port=_free_port()),
            orthanc=OrthancSettings(http_port=_free_port(), dicom_port=_free_port()),
            triton=TritonSettings(
                http_port=_free_port(),
                grpc_port=_free_port(),
                metrics_port=_free_port(),
                model_repository=_PROJECT / "triton_models",
            ),
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

"""The whole way: a study in Orthanc to its SEG in Orthanc, the demonstration network, ours against the SDK's way.

Ours is what a worker does for a job: fetch, volume, gate, whole volume to Triton, SEG, report, pictures, checks, store.
The SDK's is what its documentation shows: the archive's zip downloaded and unpacked, a process started, its operators,
the network on the same Triton by `TritonRemoteModel`, its SEG writer, the file uploaded. It makes a SEG, no more.
"""

from __future__ import annotations

import gc
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import torch
from comparison import Comparison, machine
from pydicom import dcmread
from series import embedded_settings

from isocenter.catalog import Catalog
from isocenter.cli.sending import send
from isocenter.settings import Settings
from isocenter.stack.orthanc import running_orthanc
from isocenter.stack.triton import running_triton
from isocenter.worker import runner
from isocenter_operators.dicom.results.seg_reader import read_segmentation
from isocenter_operators.inference.triton import TritonClient
from isocenter_operators.run import Archive, Outcome, Run
from isocenter_operators.testing import Organ, ThoraxPhantom, thorax_phantom, write_series

SIZE, SPACING_MM = (512, 512, 275), (0.7, 0.7, 1.2)
_PROJECT = Path(__file__).parent.parent
_SDK_WAY = Path(__file__).parent / "sdk_way"
_NAME, _NETWORK = "thorax_organs", "thorax_network"
_ROUNDS = 3
_ALIKE = 0.01  # of a segment's voxels: the SDK's volume operator rounds positions, and its affine with them


@dataclass(frozen=True)
class Place:
    """Where both find the study, and what answers them."""

    settings: Settings
    triton: TritonClient
    study_uid: str
    series_uid: str


def compare() -> Iterator[Comparison]:
    phantom = thorax_phantom(size=SIZE, spacing_mm=SPACING_MM)
    with _place(phantom) as place:
        _ours(place)
        # As a worker does once it is warm: else each full collection walks all that was imported.
        gc.collect()
        gc.freeze()
        runs = [_ours(place) for _ in range(_ROUNDS)]
        outcome, seconds = sorted(runs, key=lambda run: run[1])[len(runs) // 2]
        sdk_seconds, counts = _sdk(place)
        _refuse_others(_counts_of(outcome, place), counts)
    yield Comparison("study to SEG", seconds, sdk_seconds, "s", "the SDK's application, once", machine())
    network = _network_alone(phantom)
    beside = seconds - network
    yield Comparison(
        "besides the network", beside, network, "s", "the network alone on the same tensor", machine()
    )
    for step, took in outcome.seconds.items():
        if step != "select":
            yield Comparison(f"study to SEG: {step}", took, None, "s", "", machine())


@contextmanager
def _place(phantom: ThoraxPhantom) -> Iterator[Place]:
    with embedded_settings() as embedded, tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        write_series(phantom, images)
        settings = embedded.model_copy(
            update={
                "triton": embedded.triton.model_copy(
                    update={"model_repository": _repository(Path(folder) / "models")}
                )
            }
        )
        first = dcmread(next(images.rglob("*.dcm")), stop_before_pixels=True)
        with (
            running_orthanc(settings),
            running_triton(settings, [_NAME, _NETWORK, "self_test"]) as url,
            TritonClient(url) as triton,
        ):
            send(images, settings)
            yield Place(settings, triton, str(first.StudyInstanceUID), str(first.SeriesInstanceUID))


def _repository(folder: Path) -> Path:
    """The installed models, and the network alone."""
    folder.mkdir()
    for model in (_PROJECT / "triton_models").iterdir():
        (folder / model.name).symlink_to(model)
    network = folder / _NETWORK
    (network / "1").mkdir(parents=True)
    shutil.copy(_SDK_WAY / "config.pbtxt", network)
    shutil.copy(_SDK_WAY / "model.py", network / "1")
    (network / "1" / "bundle").symlink_to(_PROJECT / "bundles" / _NAME)
    return folder


def _ours(place: Place) -> tuple[Outcome, float]:
    url = place.settings.orthanc.dicomweb_url
    task = Run(
        source=Archive(url, place.study_uid, (place.series_uid,)), sink=Archive(url), inference=place.triton
    )
    application = Catalog.of(place.settings).get(_NAME)
    started = time.perf_counter()
    outcome = runner.run(application, task)
    return outcome, time.perf_counter() - started


def _counts_of(outcome: Outcome, place: Place) -> list[int]:
    (seg,) = [each for each in outcome.results if each.modality == "SEG"]
    content = httpx.get(
        f"{_rest(place)}/instances/{_orthanc_id(place, 'Instance', 'SOPInstanceUID', seg.sop_instance_uid)}/file",
        timeout=60,
        trust_env=False,
    ).content
    return _counts(io.BytesIO(content))


def _sdk(place: Place) -> tuple[float, list[int]]:
    """Seconds, and the voxels of each segment."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "out").mkdir()
        (folder / "models" / _NETWORK).mkdir(parents=True)
        shutil.copy(_SDK_WAY / "config.pbtxt", folder / "models" / _NETWORK)
        study = _orthanc_id(place, "Series", "SeriesInstanceUID", place.series_uid)
        started = time.perf_counter()
        archive = httpx.get(f"{_rest(place)}/series/{study}/archive", timeout=120, trust_env=False).content
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            packed.extractall(folder / "in")
        triton = place.settings.triton
        done = subprocess.run(
            [
                *(sys.executable, "-W", "ignore", _SDK_WAY / "app.py"),
                *("-i", folder / "in", "-o", folder / "out", "-m", folder / "models"),
            ],
            env={**os.environ, "TRITON_SERVER_NETLOC": f"{triton.host}:{triton.http_port}"},
            capture_output=True,
            text=True,
            check=False,
        )
        files = list((folder / "out").rglob("*.dcm"))
        if done.returncode or len(files) != 1:
            raise SystemExit(f"the SDK's application made {len(files)} files: {done.stderr[-2000:]}")
        httpx.post(
            f"{_rest(place)}/instances", content=files[0].read_bytes(), timeout=60, trust_env=False
        ).raise_for_status()
        return time.perf_counter() - started, _counts(files[0])


def _counts(file: Path | io.BytesIO) -> list[int]:
    stored = read_segmentation(dcmread(file))
    return [int(np.count_nonzero(stored.mask(int(organ)))) for organ in Organ]


def _refuse_others(ours: list[int], theirs: list[int]) -> None:
    """Two that do not find the same are not compared."""
    for organ, one, other in zip(Organ, ours, theirs, strict=True):
        if abs(one - other) > _ALIKE * max(one, other):
            raise SystemExit(
                f"{organ.name}: ours has {one} voxels, the SDK's {other}: the benchmark means nothing"
            )


def _rest(place: Place) -> str:
    return place.settings.orthanc.dicomweb_url.removesuffix("/dicom-web")


def _orthanc_id(place: Place, level: str, keyword: str, uid: str) -> str:
    query = {"Level": level, "Query": {keyword: uid}}
    (found,) = httpx.post(f"{_rest(place)}/tools/find", json=query, trust_env=False).json()
    return str(found)


def _network_alone(phantom: ThoraxPhantom) -> float:
    """Median seconds of the bundle's inferer with its network on the tensor that its transforms make of the phantom."""
    sys.path.insert(0, str(_PROJECT / "triton_models" / "monai_bundle" / "1"))
    from bundle_engine import Plan, workflow_of
    from bundle_engine.volume import image_of, seen

    from isocenter.bundles.bundle import opened
    from isocenter.bundles.plan import plan_of

    folder = _PROJECT / "bundles" / _NAME
    with opened(folder) as bundle:
        plan, _ = plan_of(bundle)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workflow = workflow_of(folder, Plan(**plan.model_dump()), device)
    seconds = []
    with torch.inference_mode():
        given = image_of(seen(torch.from_numpy(phantom.hu).to(device), torch.from_numpy(phantom.affine)))
        image = workflow.preprocessing({plan.image_key: given})[plan.image_key].as_tensor()[None].to(device)
        for _ in range(_ROUNDS + 1):
            started = time.perf_counter()
            workflow.inferer(inputs=image, network=workflow.network).sum().item()
            seconds.append(time.perf_counter() - started)
    return sorted(seconds[1:])[_ROUNDS // 2]


if __name__ == "__main__":
    for comparison in compare():
        print(comparison.name, comparison.as_json())

"""A site with a model that was imported: the commands that change its versions, and the studies that it analyses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from threshold_bundle import compute_without_monai, threshold_bundle
from trivial_app import ended

from isocenter.catalog import Catalog
from isocenter.cli import main
from isocenter.job import Job, JobSpec
from isocenter.jobs import Jobs
from isocenter.settings import Settings
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.testing import as_datasets, thorax_phantom
from isocenter_operators.testing.phantom import Phantom

__all__ = ["ABOVE_HU", "NAME", "PHANTOM", "ModelSite", "mask_ml", "written"]

NAME = "bone"
ABOVE_HU = {"1": 300.0, "2": 700.0}
PHANTOM = thorax_phantom(size=(64, 48, 32), spacing_mm=(5.6, 5.6, 9.0))


@dataclass
class ModelSite:
    """`config`: the file that holds `settings`, see `written`. `folder`: where bundles of the test lie."""

    settings: Settings
    folder: Path
    jobs: Jobs
    config: Path

    def command(self, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
        capsys.readouterr()
        said = main(["models", "--config", str(self.config), *words, "--json"])
        out, error = capsys.readouterr()
        assert said == code, error
        return json.loads(out) if code == 0 else error

    def added(
        self, capsys: pytest.CaptureFixture[str], above_hu: float, *, broken: bool = False, **more: str
    ) -> str:
        """The number of a new version, whose process needs no MONAI."""
        bundle = threshold_bundle(self.folder / f"above {above_hu:g}", above_hu, broken=broken, **more)
        words = ("import", str(bundle), "--name", NAME, "--as-version")
        version = str(self.command(capsys, *words)["version"])
        compute_without_monai(self.version(version), above_hu, broken=broken)
        return version

    def version(self, version: str) -> Path:
        """Its folder on Triton."""
        return self.settings.data_dir / "models" / NAME / version

    def study(self, seed: str, phantom: Phantom = PHANTOM) -> list[Dataset]:
        """A study of this seed, in the archive."""
        images = list(as_datasets(phantom, uid_seed=f"{self.folder.name} {seed}"))
        with DICOMwebClient(self.settings.orthanc.dicomweb_url) as archive:
            archive.store(images)
        return images

    def asked(self, seed: str, name: str = NAME, phantom: Phantom = PHANTOM) -> str:
        """The job that the router makes of a study."""
        images = self.study(seed, phantom)
        study_uid = str(images[0].StudyInstanceUID)
        spec = JobSpec(
            algorithm=Catalog.weighed(self.settings).for_study(name, study_uid).algorithm,
            study_uid=study_uid,
            series_uids=(str(images[0].SeriesInstanceUID),),
            sop_instance_uids=tuple(str(each.SOPInstanceUID) for each in images),
            route="everything",
        )
        return self.jobs.submit(spec)

    def done(self, seed: str, name: str = NAME, phantom: Phantom = PHANTOM) -> Job:
        job = ended(self.jobs, self.asked(seed, name, phantom))
        assert job.state == "done", job.reason
        return job


def written(settings: Settings, folder: Path) -> Path:
    """The settings in a file, for commands."""
    file = folder / "settings.yaml"
    file.write_text(json.dumps(settings.model_dump(mode="json", exclude_defaults=True)))
    return file


def mask_ml(above_hu: float) -> float:
    """How large the segment of a version is in the phantom, by counting."""
    voxel_ml = abs(np.linalg.det(PHANTOM.affine[:3, :3])) / 1000
    return float(np.count_nonzero(above_hu < PHANTOM.hu) * voxel_ml)

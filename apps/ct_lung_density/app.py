"""Quantitative CT of the lungs: volume, mean density, low-attenuation area and 15th percentile of each lung.

    source -> select -> volume -> model on Triton -> density -> SEG, SR, pictures -> sink
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from isocenter_operators.application import Application
from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Findings, Measurement, MeasurementGroup, Segment
from isocenter_operators.errors import NotApplicable
from isocenter_operators.manifest import read_manifest
from isocenter_operators.picture_writer import PictureWriterOperator
from isocenter_operators.run import Record, Run
from isocenter_operators.seg_writer import SegWriterOperator
from isocenter_operators.series_selector import SeriesSelectorOperator
from isocenter_operators.sr_writer import SRWriterOperator
from isocenter_operators.triton_inference import TritonInferenceOperator
from isocenter_operators.volume import VolumeOperator

MANIFEST = read_manifest(Path(__file__).parent)
MODEL = "ct_lung_density"
SELECTION = json.dumps({"selections": [{"name": "chest CT", "conditions": {"Modality": "^CT$"}}]})

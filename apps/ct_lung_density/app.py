"""Quantitative CT of the lungs: volume, mean density, low-attenuation area and 15th percentile of each lung.

source -> select -> volume -> model on Triton -> density -> SEG, SR, pictures -> sink
"""

from __future__ import annotations

import json
from pathlib import Path

from isocenter_operators.manifest import read_manifest

MANIFEST = read_manifest(Path(__file__).parent)
MODEL = "ct_lung_density"
SELECTION = json.dumps({"selections": [{"name": "chest CT", "conditions": {"Modality": "^CT$"}}]})

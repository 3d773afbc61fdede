"""The tables of modules and attributes that highdicom has: half a second of JSON, read by the first result."""

from __future__ import annotations

import sys
from contextlib import suppress

__all__ = ["load_tables"]


def load_tables() -> None:
    """Read them now, where highdicom is used at all. Where a version of it keeps them elsewhere, nothing happens."""
    if "highdicom" not in sys.modules:
        return
    with suppress(ImportError):  # not public: nothing that is public reads them before there are images
        from highdicom._standard_utils import (
            get_iod_module_map,
            get_module_attribute_map,
            get_sop_class_iod_map,
        )

        for load in (get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map):
            load()

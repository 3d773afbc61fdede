"""The regions of the body that the gate tells apart."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["REGIONS", "Region"]

Region = Literal["head", "neck", "chest", "abdomen"]
REGIONS: tuple[Region, ...] = get_args(Region)  # from the head down

"""Earlier studies of the same patient: found, compared, and brought to a job that asks for them."""

from __future__ import annotations

from isocenter.priors.gathering import Gathered, gather
from isocenter.priors.patience import Patience

__all__ = ["Gathered", "Patience", "gather"]

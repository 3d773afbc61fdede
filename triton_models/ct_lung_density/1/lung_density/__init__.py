"""Lungs in a CT volume, found without trained weights, and their density. In: torch and numpy; nothing of Triton."""

from .analysis import Analysis, analyse
from .device import device_of
from .grid import InvalidAffine

__all__ = ["Analysis", "InvalidAffine", "analyse", "device_of"]

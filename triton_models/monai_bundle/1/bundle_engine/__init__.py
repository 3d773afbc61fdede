"""Runs a MONAI bundle on whole volumes, by its own `inference.json`: what it says, in its own order."""

# ruff: noqa: E402 - MONAI comes first, without what is not needed of it
from pathlib import Path

from bundle_engine.library import import_monai

import_monai(Path(__file__).parents[1])

from bundle_engine.analysis import Answer, analyse
from bundle_engine.device import device_of
from bundle_engine.fallback import analyse_as_it_fits, limit_memory
from bundle_engine.plan import Plan, read_plan
from bundle_engine.variant import read_variant
from bundle_engine.variation import loaded
from bundle_engine.volume import InvalidAffine
from bundle_engine.warm_up import warm_up
from bundle_engine.workflow import BundleError, Workflow, workflow_of

__all__ = [
    "Answer",
    "BundleError",
    "InvalidAffine",
    "Plan",
    "Workflow",
    "analyse",
    "analyse_as_it_fits",
    "device_of",
    "limit_memory",
    "loaded",
    "read_plan",
    "read_variant",
    "warm_up",
    "workflow_of",
]

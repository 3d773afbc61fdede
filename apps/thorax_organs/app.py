"""Thorax organs: imported from a MONAI bundle. What is special about it is in app.yaml."""

from pathlib import Path

from isocenter_operators.bundle_application import BundleApplication
from isocenter_operators.run import Run

FOLDER = Path(__file__).parent


def application(task: Run | None = None) -> BundleApplication:
    """One run of the application, ready to be executed; without a task, the one that the environment names."""
    return BundleApplication(FOLDER, task)

"""The SDK's core without MONAI and PyTorch: who needs none waits for none, who needs them gets them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ALONE = "from isocenter_operators.sdk_core import import_sdk_core\nimport_sdk_core()\n"


def _python(program: str, *, ours: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import sys\n{ALONE if ours else ''}{program}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_application_for_triton_imports_neither_monai_nor_pytorch() -> None:
    program = "import isocenter_operators.bundle_application\nprint(*({'torch', 'monai'} & set(sys.modules)))"
    program = f"{ALONE}{program}\n{ALONE}"  # for a second and a third application
    assert _python(program) == ""


def test_without_it_they_are_imported_and_stay() -> None:
    """Else all this is of no use any more."""
    program = (
        "import isocenter_operators.bundle_application\nfound = sys.modules['torch'], sys.modules['monai']\n"
    )
    program += f"{ALONE}import monai.deploy.core, torch\nprint(found == (torch, monai))"
    assert _python(program, ours=False) == "True"


def test_who_asks_for_monai_later_gets_all_of_it_and_the_same_deploy() -> None:
    assert (
        _python(
            "from monai.deploy.core import Image\n"
            "from monai.deploy.core.models import torch_model\n"
            "from monai.transforms import Compose\n"
            "import monai, torch\n"
            "from monai.deploy.operators import MonaiSegInferenceOperator\n"
            "assert monai.deploy.core.Image is Image\n"
            "assert monai.transforms.Compose is Compose\n"
            "assert torch_model.torch.nn is torch.nn\n"
            "print(sys.modules['torch'] is torch, sys.modules['monai'] is monai)"
        )
        == "True True"
    )


def test_an_application_that_brings_its_own_network_runs_it(tmp_path: Path) -> None:
    """As the SDK's own: the classes that the SDK's core holds ask for PyTorch when they are asked for a model."""
    assert (
        _python(
            "from monai.deploy.core import TorchScriptModel\n"
            "import torch\n"
            f"torch.jit.script(torch.nn.ReLU()).save({str(tmp_path / 'model.ts')!r})\n"
            f"model = TorchScriptModel({str(tmp_path / 'model.ts')!r})\n"
            "print(model.predictor(torch.tensor([-1.0, 2.0])).tolist())"
        )
        == "[0.0, 2.0]"
    )

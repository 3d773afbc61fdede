"""An application in a package with models: which server it asks, and whose weights it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from isocenter.stack import alone

MAIN = 'import os, sys; print(os.environ.get("TRITON_SERVER_NETLOC"), sys.argv[1:]); sys.exit(4)\n'


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "__main__.py").write_text(MAIN)
    (folder / "app.yaml").write_text(
        "application: {title: Liver, version: 1.0.0}\n"
        f"isocenter: {{name: liver, models: {{liver: {{version: '1', weights_sha256: {'a' * 64}}}}}}}\n"
    )
    (tmp_path / "models/liver/1").mkdir(parents=True)
    (tmp_path / "models/liver/1/model.py").write_text("other weights")
    monkeypatch.setenv("HOLOSCAN_MODEL_PATH", str(tmp_path / "models"))
    monkeypatch.delenv("TRITON_SERVER_NETLOC", raising=False)
    return folder


def test_a_server_that_is_named_is_asked(
    app: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITON_SERVER_NETLOC", "triton:8001")
    assert alone.main([str(app), "-o", "out"]) == 4
    assert capfd.readouterr().out == "triton:8001 ['-o', 'out']\n"


def test_help_needs_no_server(app: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert alone.main([str(app), "--help"]) == 4
    assert capfd.readouterr().out == "None ['--help']\n"


def test_other_weights_than_it_was_packed_with_are_refused(
    app: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert alone.main([str(app)]) == 2
    assert "states weights" in capfd.readouterr().err


def test_it_needs_nothing_that_only_the_service_has() -> None:
    """A package brings the dependencies of its models, and not those of the service."""
    service = (
        "click",
        "cryptography",
        "dbos",
        "pynetdicom",
        "rich",
        "sqlalchemy",
        "starlette",
        "uvicorn",
    )
    program = f"import sys\nsys.modules.update(dict.fromkeys({service}))\nimport isocenter.stack.alone\n"
    program += "from isocenter.settings import Settings\nSettings()\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""What is said when a part of the embedded Triton is missing."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path

import pytest

from isocenter.settings import Settings, TritonSettings
from isocenter.stack.triton import triton_child
from isocenter.stack.tritonserver import TritonDistribution
from isocenter_operators.errors import ConfigurationError

ROOT = Path(__file__).parents[2]


def _settings(data_dir: Path, **triton: object) -> Settings:
    values = {"model_repository": ROOT / "triton_models", **triton}
    return Settings(data_dir=data_dir, triton=TritonSettings.model_validate(values))


def test_without_the_wheel_its_name_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        ConfigurationError, match=r"pip install --no-deps nvidia-pytriton.*or set triton\.url"
    ):
        triton_child(_settings(tmp_path), [])


def test_without_libpython_the_package_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"libpython3\.\d+\.so\.1\.0.*apt-get install libpython3"):
        triton_child(_settings(tmp_path), [])


def test_an_unknown_python_is_told_which_ones_are_served(tmp_path: Path) -> None:
    stub = tmp_path / "python_backend_stubs" / "3.8" / "triton_python_backend_stub"
    stub.parent.mkdir(parents=True)
    stub.touch()
    with pytest.raises(ConfigurationError, match=r"serves Python 3\.8, not 3\.1"):
        TritonDistribution(tmp_path).assemble_backends(tmp_path / "backends")


def test_a_data_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "triton").write_text("a file where the folder would be")
    with pytest.raises(ConfigurationError, match=r"triton/backends can not be written: Not a directory"):
        triton_child(_settings(tmp_path), [])


def test_no_model_repository(tmp_path: Path) -> None:
    settings = _settings(tmp_path, model_repository=tmp_path / "nowhere")
    with pytest.raises(
        ConfigurationError, match=r"triton\.model_repository: .*nowhere holds no model 'self_test'"
    ):
        triton_child(settings, [])


def test_the_environment_of_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere")
    cpu = triton_child(_settings(tmp_path, device="cpu"), ["self_test"])
    assert cpu.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert cpu.environment["LD_LIBRARY_PATH"].endswith(":/somewhere")
    assert cpu.argv.count("--load-model=self_test") == 1
    assert "CUDA_VISIBLE_DEVICES" not in triton_child(_settings(tmp_path), []).environment
    stub = tmp_path / "triton" / "backends" / "python" / "triton_python_backend_stub"
    assert stub.stat().st_mode & 0o111

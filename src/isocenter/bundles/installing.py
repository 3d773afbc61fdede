"""Makes of a bundle a model on Triton and an application: both whole, or neither."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import yaml

from isocenter.bundles.bundle import Bundle
from isocenter.bundles.description import Description
from isocenter.bundles.plan import Plan
from isocenter_operators.errors import ConfigurationError

__all__ = ["Imported", "install", "remove"]

_ENGINE = "monai_bundle"  # in the installed model repository: what runs any bundle
_VERSION = "1"
_APP = '''"""{title}: imported from a MONAI bundle. What is special about it is in app.yaml."""

from pathlib import Path

from isocenter_operators.bundle_application import BundleApplication
from isocenter_operators.run import Run

FOLDER = Path(__file__).parent


def application(task: Run | None = None) -> BundleApplication:
    """One run of the application, ready to be executed; without a task, the one that the environment names."""
    return BundleApplication(FOLDER, task)
'''
_CONFIG = """# {title} {version}, imported from a MONAI bundle: 1/bundle is the bundle, 1/plan.json says how it is run.
name: "{name}"
backend: "python"
max_batch_size: 0
input [
  {{ name: "volume"  data_type: TYPE_INT16  dims: [ {input_dims} ] }},  # {input_axes}
  {{ name: "affine"  data_type: TYPE_FP64  dims: [ 4, 4 ] }}  # (x, y, z, 1) to LPS mm
]
output [
  {{ name: "{output}"  data_type: {output_type}  dims: [ {output_dims} ] }},
  {{ name: "findings"  data_type: TYPE_UINT8  dims: [ -1 ] }}  # JSON as UTF-8
]
parameters [
  {{ key: "device"  value: {{ string_value: "auto" }} }},  # auto, cpu or cuda; auto takes CUDA where torch finds it
  {{ key: "gpu_memory_mb"  value: {{ string_value: "0" }} }}  # the most that it may hold there, MB; 0: all there is
]
dynamic_batching {{
  priority_levels: 4  # 1 STAT, 2 urgent, 3 routine, 4 batch
  default_priority_level: 3
  default_queue_policy {{
    timeout_action: REJECT
    default_timeout_microseconds: 3600000000
    allow_timeout_override: true
  }}
}}
instance_group [ {{ count: 1  kind: KIND_AUTO }} ]
"""
_OUTPUTS = {
    "labels": ("TYPE_UINT8", "-1, -1, -1"),
    "masks": ("TYPE_UINT8", "-1, -1, -1, -1"),
    "classes": ("TYPE_FP64", "2, -1"),  # probabilities, and what the model decides for
    "values": ("TYPE_FP64", "-1"),
}


@dataclass(frozen=True)
class Imported:
    """Where an imported bundle lies: its model, and its application."""

    name: str
    model: Path
    app: Path


def install(
    bundle: Bundle,
    plan: Plan,
    description: Description,
    *,
    name: str,
    models: Path,
    apps: Path,
    installed: Path,
    taken: Collection[str] = (),
) -> Imported:
    """Write the model to `models` and the application to `apps`, under `name`.

    installed: the model repository that the engine is copied from. taken: the names of all applications. Raises
    ConfigurationError where the name is taken or something can not be written; then nothing is left of either.
    """
    place = Imported(name, models / name, apps / name)
    if name in taken and not place.app.exists():
        raise ConfigurationError(f"there is an application {name!r} already: choose another --name")
    for there in (place.model, place.app, installed / name):
        if there.exists():
            raise ConfigurationError(
                f"{there} is there already: choose another --name, or take it away with `isocenter models remove "
                f"{name}`",
                path=str(there),
            )
    with _beside(models) as model, _beside(apps) as app:
        engine = installed / _ENGINE / _VERSION
        _write_model(model, bundle, plan, _config(name, plan, description), engine)
        _write_app(app, plan, description, name)
        model.rename(place.model)
        try:
            app.rename(place.app)
        except OSError:
            shutil.rmtree(place.model, ignore_errors=True)
            raise
    return place


def remove(name: str, *, models: Path, apps: Path) -> None:
    """Delete an imported model and its application. Raises ConfigurationError where there is none of this name."""
    folders = [each / name for each in (apps, models) if (each / name).is_dir()]
    if Path(name).name != name or not folders:
        raise ConfigurationError(f"{name!r} was not imported: there is no {apps / name}")
    try:
        for folder in folders:  # the application first: without its model it would fail its jobs
            shutil.rmtree(folder)
    except OSError as error:
        raise ConfigurationError(f"{error.filename} can not be deleted: {error.strerror}") from error


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder to be filled, and renamed into `folder` when it is whole."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = Path(mkdtemp(prefix=".import-", dir=folder))
        made.chmod(0o755)
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise ConfigurationError(f"{folder} can not be written to: {error.strerror or error}") from error


def _write_model(folder: Path, bundle: Bundle, plan: Plan, config: str, engine: Path) -> None:
    version = folder / _VERSION
    shutil.copytree(engine, version, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(bundle.folder, version / "bundle", ignore=shutil.ignore_patterns("__pycache__", ".git"))
    (version / "plan.json").write_text(plan.model_dump_json(indent=2) + "\n")
    (folder / "config.pbtxt").write_text(config)


def _config(name: str, plan: Plan, description: Description) -> str:
    output_type, output_dims = _OUTPUTS[plan.output]
    return _CONFIG.format(
        title=_one_line(description.title),
        version=_one_line(description.version),
        name=name,
        input_dims="-1, -1, -1" if plan.channels == 1 else f"{plan.channels}, -1, -1, -1",
        input_axes="(Z, Y, X)" if plan.channels == 1 else "(series, Z, Y, X)",
        output=plan.output,
        output_type=output_type,
        output_dims=output_dims,
    )


def _write_app(folder: Path, plan: Plan, description: Description, name: str) -> None:
    manifest = {
        "application": {
            "title": description.title,
            "version": description.version,
            "inputFormats": ["DICOM"],
            "outputFormats": ["DICOM"],
        },
        "isocenter": {
            "models": {name: _VERSION},
            "deadline_s": 600,
            "accepts": {**description.accepts, "modalities": [description.modality]},
        },
        "bundle": {
            "model": name,
            "output": plan.output,
            "labels": description.labels,
            **({"activation": plan.activation} if plan.output == "classes" else {}),
            **_sequences(description),
            "intended_use": description.intended_use,
        },
    }
    (folder / "app.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True))
    (folder / "app.py").write_text(_APP.format(title=_one_line(description.title).replace('"', "'")))


def _sequences(description: Description) -> dict[str, Any]:
    """What a series has to say to be taken for each channel: to be read, and changed where a site has other names."""
    if not description.sequences:
        return {}
    return {
        "sequences": [rule.model_dump(mode="json", exclude_defaults=True) for rule in description.sequences]
    }


def _one_line(text: str) -> str:
    return " ".join(text.replace("\\", "/").split())

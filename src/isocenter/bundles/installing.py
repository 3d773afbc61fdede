"""Makes of a bundle a model on Triton and an application, or another version of both: whole, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import yaml

from isocenter.bundles.bundle import Bundle
from isocenter.bundles.description import Description
from isocenter.bundles.model_config import instance_group, rewrite, version_policy, with_versions
from isocenter.bundles.plan import Plan
from isocenter_operators.errors import ConfigurationError

__all__ = [
    "Addition",
    "Imported",
    "add_version",
    "adding",
    "install",
    "remove",
    "remove_version",
    "versions_of",
]

_ENGINE = "monai_bundle"  # in the installed model repository: what runs any bundle
_FIRST = "1"
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
{outputs}
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
{instances}
{versions}
"""
_OUTPUTS = {  # name, type, dims; of boxes: centre and size in LPS mm, and what goes with each
    "labels": (("labels", "TYPE_UINT8", "-1, -1, -1"),),
    "masks": (("masks", "TYPE_UINT8", "-1, -1, -1, -1"),),
    "boxes": (
        ("boxes", "TYPE_FP64", "-1, 6"),
        ("scores", "TYPE_FP64", "-1"),
        ("classes", "TYPE_INT32", "-1"),
    ),
    "classes": (("classes", "TYPE_FP64", "2, -1"),),  # probabilities, and what the model decides for
    "values": (("values", "TYPE_FP64", "-1"),),
}


@dataclass(frozen=True)
class Imported:
    """Where an imported bundle lies: its model, and its application."""

    name: str
    model: Path
    app: Path
    version: str = _FIRST


@dataclass(frozen=True)
class Addition:
    """A version that is being added: `model` becomes its folder of the model, `about` that of what describes it."""

    version: str
    model: Path
    about: Path


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
    instances: int = 1,
    gpus: Sequence[int] = (),
) -> Imported:
    """Write the model to `models` and the application to `apps`, under `name`.

    instances: how many processes of the model there are on each of `gpus`, or of those that Triton finds. installed:
    the model repository that the engine is copied from. taken: the names of all applications. Raises
    ConfigurationError where the name is taken or something can not be written; then nothing is left of either.
    """
    place = Imported(name, models / name, apps / name)
    if name in taken and not place.app.exists():
        raise ConfigurationError(f"there is an application {name!r} already: choose another --name")
    for there in (place.model, place.app, installed / name):
        if there.exists():
            raise ConfigurationError(
                f"{there} is there already: choose another --name, or take it away with `isocenter models remove "
                f"{name}`; --as-version adds this bundle as another version of it",
                path=str(there),
            )
    with _beside(models) as model, _beside(apps) as app:
        _write_version(model / _FIRST, bundle, plan, installed)
        (model / "config.pbtxt").write_text(_config(name, plan, description, instance_group(instances, gpus)))
        _write_app(app, plan, description, name)
        model.rename(place.model)
        try:
            app.rename(place.app)
        except OSError:
            shutil.rmtree(place.model, ignore_errors=True)
            raise
    return place


def add_version(
    bundle: Bundle,
    plan: Plan,
    description: Description,
    *,
    name: str,
    models: Path,
    apps: Path,
    installed: Path,
    loaded: Sequence[str],
) -> Imported:
    """Write the bundle as the next version of an imported model, which does nothing until it is given a role.

    loaded: the versions that the model's server is to have loaded meanwhile, and no other. Raises ConfigurationError
    where there is no such model, or where the bundle takes or finds something else than the version there is: that is
    another application.
    """
    model, app = models / name, apps / name
    there = versions_of(model)
    if not there or not (app / "app.yaml").is_file():
        raise ConfigurationError(
            f"{name!r} was not imported: there is no {app}; import it without --as-version"
        )
    with adding(name, models=models, apps=apps, loaded=loaded) as addition:
        described = _manifest(plan, description, name, addition.version)
        _refuse_another(app / "app.yaml", described)
        _write_version(addition.model, bundle, plan, installed)
        (addition.about / "app.yaml").write_text(_yaml(described))
    return Imported(name, model / addition.version, app, addition.version)


@contextmanager
def adding(name: str, *, models: Path, apps: Path, loaded: Sequence[str]) -> Iterator[Addition]:
    """Two folders to be filled, which become the next version of an imported model: whole, or not at all.

    No folder of a version that is there is changed: what made a result is told by its hash. The number was never
    another version's. loaded: as `add_version` has it. Raises ConfigurationError where something can not be written.
    """
    model, app = models / name, apps / name
    config = model / "config.pbtxt"
    version = str(max(map(int, (*versions_of(model), *versions_of(app / "versions")))) + 1)
    with _beside(models) as folder, _beside(apps) as about:
        yield Addition(version, folder, about)
        # Before the folder is there: without a policy Triton would take the highest version for the only one.
        rewrite(config, with_versions(config.read_text(), loaded))
        (app / "versions").mkdir(exist_ok=True)
        about.rename(app / "versions" / version)
        folder.rename(model / version)


def versions_of(model: Path) -> tuple[str, ...]:
    """The versions of a model in a repository, in order; of none where there is no such folder."""
    found = [each.name for each in model.iterdir() if each.name.isdecimal()] if model.is_dir() else []
    return tuple(sorted(found, key=int))


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


def remove_version(name: str, version: str, *, models: Path, apps: Path) -> None:
    """Delete one version of an imported model. Raises ConfigurationError where it can not be deleted.

    Its number is not given away again, for jobs and reports would take the next one for this: an empty folder is left
    beside the application.
    """
    about = apps / name / "versions" / version
    try:
        gone = models / f".removed-{name}-{version}"  # all at once out of Triton's sight
        (models / name / version).rename(gone)
        shutil.rmtree(gone)
        about.mkdir(parents=True, exist_ok=True)
        for file in about.iterdir():
            file.unlink()
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


def _write_version(folder: Path, bundle: Bundle, plan: Plan, installed: Path) -> None:
    engine = installed / _ENGINE / "1"
    shutil.copytree(engine, folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    shutil.copytree(bundle.folder, folder / "bundle", ignore=shutil.ignore_patterns("__pycache__", ".git"))
    (folder / "plan.json").write_text(plan.model_dump_json(indent=2) + "\n")


def _config(name: str, plan: Plan, description: Description, instances: str) -> str:
    outputs = "\n".join(
        f'  {{ name: "{output}"  data_type: {kind}  dims: [ {dims} ] }},'
        for output, kind, dims in _OUTPUTS[plan.output]
    )
    return _CONFIG.format(
        title=_one_line(description.title),
        version=_one_line(description.version),
        name=name,
        input_dims="-1, -1, -1" if plan.channels == 1 else f"{plan.channels}, -1, -1, -1",
        input_axes="(Z, Y, X)" if plan.channels == 1 else "(series, Z, Y, X)",
        outputs=outputs,
        instances=instances,
        versions=version_policy([_FIRST]),
    )


def _write_app(folder: Path, plan: Plan, description: Description, name: str) -> None:
    (folder / "app.yaml").write_text(_yaml(_manifest(plan, description, name, _FIRST)))
    (folder / "app.py").write_text(_APP.format(title=_one_line(description.title).replace('"', "'")))


def _yaml(manifest: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(manifest), sort_keys=False, allow_unicode=True)


def _manifest(plan: Plan, description: Description, name: str, version: str) -> dict[str, Any]:
    return {
        "application": {
            "title": description.title,
            "version": description.version,
            "inputFormats": ["DICOM"],
            "outputFormats": ["DICOM"],
        },
        "isocenter": {
            "models": {name: version},
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


def _refuse_another(file: Path, described: Mapping[str, Any]) -> None:
    """A version that takes or finds something else is another application: no report could compare the two."""
    try:
        known = yaml.safe_load(file.read_text())
        there, accepted = _compared(known["bundle"]), dict(known["isocenter"]["accepts"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{file}: can not be read: {error}", path=str(file)) from error
    here = _compared(described["bundle"])
    differing = [
        _difference(each, there.get(each), here.get(each))
        for each in sorted({*there, *here})
        if there.get(each) != here.get(each)
    ]
    # What a site has added to app.yaml holds for every version; what a bundle asks for and that does not, for none.
    differing += [
        _difference(f"accepts.{each}", accepted.get(each), wanted)
        for each, wanted in described["isocenter"]["accepts"].items()
        if accepted.get(each) != wanted
    ]
    if differing:
        raise ConfigurationError(
            f"this bundle is no version of {file.parent.name!r}: {'; '.join(differing)}. Import it under a --name "
            "of its own",
            path=str(file),
        )


def _compared(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same. How a series of a sequence is known stands in app.yaml, and may be the site's own."""
    compared = {each: said for each, said in bundle.items() if each != "intended_use"}
    if "sequences" in compared:
        compared["sequences"] = [rule["name"] for rule in compared["sequences"]]
    return compared


def _difference(what: str, there: Any, here: Any) -> str:
    if not (isinstance(there, Mapping) and isinstance(here, Mapping)):
        return f"its {what} is {here}, and not {there}"
    first = next(key for key in sorted({*there, *here}, key=str) if there.get(key) != here.get(key))
    return f"{first} of its {what} is {here.get(first, 'missing')!r}, and not {there.get(first, 'missing')!r}"


def _sequences(description: Description) -> dict[str, Any]:
    """What a series has to say to be taken for each channel: to be read, and changed where a site has other names."""
    if not description.sequences:
        return {}
    return {
        "sequences": [rule.model_dump(mode="json", exclude_defaults=True) for rule in description.sequences]
    }


def _one_line(text: str) -> str:
    return " ".join(text.replace("\\", "/").split())

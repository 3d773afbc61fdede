"""What a module offers is what its `__all__` says; the operators' ports are what the architecture page says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from pydicom.sr._concepts_dict import concepts

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Code

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    path
    for folder in ("operators/isocenter_operators", "triton_models")
    for path in (ROOT / folder).rglob("*.py")
    if path.name not in ("__init__.py", "model.py")
)
OPERATORS = re.compile(r"^\| `(\w+)\.(\w+Operator)` \|(.*?)\|(.*?)\|$", re.MULTILINE)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_all_is_what_is_public(path: Path) -> None:
    tree = ast.parse(path.read_text())
    defined = {name for name in _defined(tree) if not name.startswith("_")}
    assert set(_all(tree)) == defined
    assert sorted(_all(tree), key=_isort) == _all(tree)


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))


def _all(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def _isort(name: str) -> tuple[int, str]:
    """Constants, classes, functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


class _Ports:
    """Stands where Holoscan's OperatorSpec does, and notes the names."""

    def __init__(self) -> None:
        self.inputs: list[str] = []
        self.outputs: list[str] = []

    def input(self, name: str, **_: object) -> _Ports:
        self.inputs.append(name)
        return self

    def output(self, name: str) -> _Ports:
        self.outputs.append(name)
        return self

    def condition(self, *_: object) -> _Ports:
        return self


def test_the_architecture_page_names_the_operators_ports() -> None:
    rows = OPERATORS.findall((ROOT / "docs" / "architecture.md").read_text())
    written = {
        path.stem
        for path in (ROOT / "operators" / "isocenter_operators").glob("*.py")
        if re.search(r"^class \w+Operator\(", path.read_text(), re.MULTILINE)
    }
    assert {module for module, *_ in rows} == written
    for module, name, inputs, outputs in rows:
        ports = _Ports()
        operator = getattr(import_module(f"isocenter_operators.{module}"), name)
        if module == "series_selector":  # the SDK's, which keeps its ports' names in the instance
            ports.inputs, ports.outputs = ["dicom_study_list"], ["study_selected_series_list"]
        else:
            operator.setup(operator, ports)  # as it is by default
        assert re.findall(r"`(\w+)`", inputs) == ports.inputs, name
        assert re.findall(r"`(\w+)`", outputs) == ports.outputs, name


def test_the_codes_are_those_of_the_standard() -> None:
    """Value and meaning belong together, as pydicom has them from PS3.16. Of UCUM it knows only what a CID lists."""
    ours = {name: code for name in codes.__all__ if isinstance(code := getattr(codes, name), Code)}
    assert len(ours) > 10
    for name, code in ours.items():
        if code == codes.MILLILITER or code.scheme == codes.PRIVATE_SCHEME:
            continue
        meanings = {
            meaning.lower()
            for values in concepts[code.scheme].values()
            for value, (meaning, _) in values.items()
            if value == code.value
        }
        assert code.meaning.lower() in meanings, name

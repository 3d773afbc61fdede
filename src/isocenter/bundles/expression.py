"""The `$` expressions of a bundle's configuration: which are plain words, and which are code.

MONAI evaluates each of them as Python (https://docs.monai.io, "Module Configuration"). Plain ones compute with numbers,
strings and references; they name a device or a type, and can do nothing else. All others are code, and are shown to
whoever imports the bundle.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CannotTell", "MethodCall", "call_of", "is_plain", "references_in", "value_of"]

# An ID as MONAI writes it: names and numbers, joined by # or ::
_REFERENCE = re.compile(r"@(\w+(?:(?:#|::)\w+)*)")
_PLAIN_NAMES = frozenset(
    {
        *("torch.device", "torch.cuda.is_available", "torch.float16", "torch.float32", "torch.float64"),
        *("torch.bfloat16", "torch.uint8", "torch.int16", "torch.int32", "torch.int64", "torch.long"),
        *("numpy.float32", "numpy.float64", "numpy.uint8", "numpy.int16", "numpy.int32", "numpy.int64"),
        *("np.float32", "np.float64", "np.uint8", "np.int16", "np.int32", "np.int64"),
        *(
            "len",
            "int",
            "float",
            "str",
            "bool",
            "list",
            "tuple",
            "min",
            "max",
            "round",
            "range",
            "abs",
            "sum",
        ),
    }
)
_PLAIN_NODES = (
    *(ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Load, ast.Slice, ast.Subscript),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
    *(ast.UnaryOp, ast.USub, ast.UAdd, ast.Not, ast.BoolOp, ast.And, ast.Or, ast.IfExp),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Is, ast.IsNot),
)
_PLAIN_METHODS = frozenset({"to", "eval", "cpu", "cuda", "float", "keys", "values"})
# What sets how a detector of MONAI's looks, and no more.
_DETECTOR_METHODS = frozenset(
    {"set_target_keys", "set_box_selector_parameters", "set_sliding_window_inferer", "set_box_coder_weights"}
)
_RESNETS = frozenset(f"monai.networks.nets.resnet.resnet{depth}" for depth in (10, 18, 34, 50, 101, 152, 200))
# Functions and classes of MONAI's of which bundles make their detectors: they make something of words, and no more.
_MAKERS = _RESNETS | {
    "monai.apps.detection.networks.retinanet_network.resnet_fpn_feature_extractor",
    "monai.apps.detection.networks.retinanet_network.RetinaNet",
    "monai.apps.detection.networks.retinanet_detector.RetinaNetDetector",
    "monai.apps.detection.utils.anchor_utils.AnchorGenerator",
    "monai.apps.detection.utils.anchor_utils.AnchorGeneratorWithAnchorShape",
}
_VARIABLE = "_reference_"


@dataclass(frozen=True)
class MethodCall:
    """`@reference.method(value, name=value, ...)`: how many values have no name, and those that have one, each None
    where only running it would tell."""

    reference: str
    method: str
    unnamed: int
    given: Mapping[str, Any]


class CannotTell(ValueError):
    """What this stands for can be said only by running it."""


def references_in(expression: str) -> list[str]:
    """The IDs that a value refers to, with @ before each: of `$@network_def.to(@device)` network_def and device."""
    return _REFERENCE.findall(expression)


def is_plain(expression: str) -> bool:
    """Whether the expression, without its $, can do nothing but compute a value or put a network on a device."""
    tree = _parsed(expression)
    return tree is not None and _plain(tree)


def value_of(expression: str, look_up: Callable[[str], Any]) -> Any:
    """The value of a plain expression that names no device and calls nothing. Raises CannotTell.

    look_up: the value of an ID. It may raise CannotTell.
    """
    tree = _parsed(expression)
    if tree is None or not _plain(tree) or any(isinstance(each, ast.Call) for each in ast.walk(tree)):
        raise CannotTell(expression)
    names = {_variable(each): look_up(each) for each in references_in(expression)}
    try:
        return eval(compile(tree, "<bundle>", "eval"), {"__builtins__": {}}, names)
    except Exception as error:
        raise CannotTell(f"{expression}: {error}") from error


def call_of(expression: str) -> MethodCall | None:
    """What this expression, without its $, calls of which part; None where it is anything else."""
    tree, references = _parsed(expression), references_in(expression)
    call = tree.body if tree is not None else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or not references:
        return None
    if not isinstance(call.func.value, ast.Name) or call.func.value.id != _variable(references[0]):
        return None
    if any(isinstance(each, ast.Starred) for each in call.args):
        return None
    given: dict[str, Any] = {}
    for word in call.keywords:
        if word.arg is None:
            return None
        given[word.arg] = word.value.value if isinstance(word.value, ast.Constant) else None
    return MethodCall(references[0], call.func.attr, len(call.args), given)


def _parsed(expression: str) -> ast.Expression | None:
    text = _REFERENCE.sub(lambda found: _variable(found[1]), expression)
    try:
        return ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return None


def _variable(reference: str) -> str:
    return _VARIABLE + re.sub(r"\W", "_", reference)


def _plain(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return node.id.startswith(_VARIABLE) or node.id in _PLAIN_NAMES
    if isinstance(node, ast.Attribute):
        return ast.unparse(node) in _PLAIN_NAMES
    if isinstance(node, ast.Call):
        if not all(_plain(each) for each in (*node.args, *(word.value for word in node.keywords))):
            return False
        name = ast.unparse(node.func)
        if name in _MAKERS or _plain_method(node.func, _DETECTOR_METHODS):
            return not (name in _RESNETS and _downloads(node))
        return not node.keywords and (name in _PLAIN_NAMES or _plain_method(node.func, _PLAIN_METHODS))
    return isinstance(node, _PLAIN_NODES) and all(_plain(each) for each in ast.iter_child_nodes(node))


def _downloads(node: ast.Call) -> bool:
    """Whether this call of a resnet asks for weights from somewhere, or may do so."""
    asked = [*node.args[:1], *(word.value for word in node.keywords if word.arg in ("pretrained", None))]
    return any(not (isinstance(each, ast.Constant) and each.value is False) for each in asked)


def _plain_method(node: ast.expr, methods: frozenset[str]) -> bool:
    """Of a reference, as in `@network_def.to(@device)`."""
    return (
        isinstance(node, ast.Attribute)
        and node.attr in methods
        and isinstance(node.value, ast.Name)
        and node.value.id.startswith(_VARIABLE)
    )

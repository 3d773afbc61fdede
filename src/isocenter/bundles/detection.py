"""Bundles that detect, in the shape of the Model Zoo's lung_nodule_ct_detection: a detector of MONAI's, what is set on
it, and scripts of the bundle's own that have it look at a volume.

These scripts are not needed: the engine has an inferer that does what the zoo's does. It stands for a bundle's own
where that is the zoo's, word for word, or is not there; any other one is code, and is run where it is trusted.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from isocenter.bundles.component import DETECTOR_INFERER
from isocenter.bundles.configuration import Configuration, Part, walked
from isocenter.bundles.expression import CannotTell, MethodCall, call_of, references_in

__all__ = ["EVALUATOR", "INFERERS_OF_THE_ZOO", "Detection", "detection_of", "words_of"]

EVALUATOR = "DetectionEvaluator"
_INFERER, _DETECTOR, _SAVER = "RetinaNetInferer", "RetinaNetDetector", "DetectionSaver"
_OF_INFERER = frozenset({"detector", "force_sliding_window"})
# SHA-256 of `words_of` each RetinaNetInferer that the zoo has had, and what it can be told.
INFERERS_OF_THE_ZOO: Mapping[str, frozenset[str]] = {
    "8e5f8531e1ad81169e662cf2d61eee6829640ebf299ee139000bbe80494cd32b": _OF_INFERER,
    "6cd3fd21658609e13999a0b271d3900c53ec07bc80c0c03798f4217d905b275a": frozenset({"detector"}),
}
_OPERATIONS = frozenset(
    {"set_target_keys", "set_box_selector_parameters", "set_sliding_window_inferer", "set_box_coder_weights"}
)
_BEFORE_SIGMOID = 4  # values that set_box_selector_parameters takes before it
_OF_EVALUATOR = frozenset(
    {"__init__", "_register_decollate"}
)  # what the zoo's has of its own: how batches are made
# How the zoo's DetectionSaver is told to bring boxes into the patient: `lambda x: [@postprocessing({**xx['pred'],
# 'image': xx['image']}) for xx in x]`.
_OUTPUT_TRANSFORM = re.compile(
    r"\$lambda(?P<all>\w+):\[@(?P<part>[\w#:]+)\(\{\*\*(?P<one>\w+)\['pred'\],(?P<key>'\w+'|@\w+):(?P=one)\[(?P=key)\]"
    r"\}\)for(?P=one)in(?P=all)\]"
)


@dataclass(frozen=True)
class Detection:
    """`detector`: its ID. `operations`: the expressions that set something on it, in their order. `inferer`: what the
    engine makes. `own_inferer`: whether that is the bundle's code. `postprocessing`: the part that follows."""

    detector: str
    operations: tuple[str, ...]
    inferer: Mapping[str, Any]
    own_inferer: bool
    postprocessing: Part | None


def detection_of(configuration: Configuration, evaluator: Part) -> Detection:
    """How a bundle detects whose evaluator is a DetectionEvaluator.

    Raises ConfigurationError, naming the file and the part, for what can not be honoured.
    """
    _refuse_own_ways(configuration, evaluator)
    inferer = configuration.child(evaluator, "inferer") or configuration.part("inferer")
    if inferer is None or not isinstance(inferer.content, Mapping):
        raise configuration.refused(f"{evaluator.id}: {EVALUATOR} without an inferer can not be honoured")
    detector = configuration.child(inferer, "detector")
    if detector is None or "::" in detector.id or not _is_detector(detector):
        what = "there is none" if detector is None else f"{detector.id} is {detector.content!r:.80}"
        raise configuration.refused(
            f"{inferer.id}: its detector has to be a part of its own that is a {_DETECTOR}: {what}"
        )
    given, own = _inferer(configuration, inferer)
    return Detection(
        detector=detector.id,
        operations=tuple(_operations(configuration, evaluator, detector)),
        inferer=given,
        own_inferer=own,
        postprocessing=_postprocessing(configuration),
    )


def _refuse_own_ways(configuration: Configuration, evaluator: Part) -> None:
    """An evaluator is not run here; one that does more than the zoo's would give something else."""
    if evaluator.content.get("postprocessing") is not None:
        raise configuration.refused(f"{evaluator.id}: {EVALUATOR} with postprocessing can not be honoured")
    written = _class_of(configuration, evaluator)
    if written is None:
        return
    methods = {each.name for each in written.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    if methods - _OF_EVALUATOR:
        raise configuration.refused(
            f"{evaluator.id}: {evaluator.content['_target_']} has {sorted(methods - _OF_EVALUATOR)[0]} of its own, "
            "which can not be honoured"
        )


def _is_detector(part: Part) -> bool:
    if isinstance(part.content, str):
        return re.match(rf"\$[\w.]*\b{_DETECTOR}\(", part.content) is not None
    return part.target == _DETECTOR


def _inferer(configuration: Configuration, inferer: Part) -> tuple[Mapping[str, Any], bool]:
    """What looks at a volume, and whether it is code of the bundle."""
    written = _class_of(configuration, inferer)
    told = set(inferer.content) - {"_target_", "_desc_"}
    digest = "" if written is None else hashlib.sha256(words_of(written).encode()).hexdigest()
    takes = _OF_INFERER if written is None else INFERERS_OF_THE_ZOO.get(digest, frozenset())
    if inferer.target == _INFERER and told <= takes:
        return {"_target_": DETECTOR_INFERER, **{key: inferer.content[key] for key in sorted(told)}}, False
    if written is None:
        raise configuration.refused(
            f"{inferer.id}: {inferer.target} can not be honoured: only {_INFERER}, with its detector and "
            "force_sliding_window, or one that the bundle brings"
        )
    return dict(inferer.content), True


def _class_of(configuration: Configuration, part: Part) -> ast.ClassDef | None:
    """The class of this part as the bundle's own file has it; None where the bundle has no such file."""
    module, _, name = str(part.content.get("_target_", "")).rpartition(".")
    path = f"{module.replace('.', '/')}.py"
    if not module or not configuration.bundle.has(path):
        return None
    try:
        tree = ast.parse((configuration.bundle.folder / path).read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise configuration.refused(f"{part.id}: {path} can not be read: {error}") from error
    found = [each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == name]
    if len(found) != 1:
        raise configuration.refused(f"{part.id}: there is not one class {name} in {path}")
    return found[0]


def words_of(written: ast.ClassDef) -> str:
    """A class without what changes nothing: its comments, docstrings, annotations and layout."""
    for node in ast.walk(written):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            body = [each for each in node.body if not _is_text(each)]
            node.body = body or [ast.Pass()]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
    return ast.unparse(written)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _operations(configuration: Configuration, evaluator: Part, detector: Part) -> Iterator[str]:
    """What the evaluator requires to be done before: all of it has to set something on the detector."""
    required = configuration.child(evaluator, "_requires_") or Part("_requires_", [])
    items = configuration.items(required) if isinstance(required.content, list) else [required]
    for item in items:
        call = (
            call_of(item.content[1:]) if isinstance(item.content, str) and item.content[:1] == "$" else None
        )
        if call is None or not _is_of(configuration, call, detector) or call.method not in _OPERATIONS:
            raise configuration.refused(
                f"{item.content!r:.120} before the evaluation can not be honoured", item
            )
        if call.method == "set_box_selector_parameters" and not _gives_probabilities(call):
            raise configuration.refused(
                "apply_sigmoid that is not true can not be honoured: scores are no probabilities then", item
            )
        yield item.content
    done = {item.content for item in items}
    for part in walked(Part("", configuration.bundle.config)):
        text = part.content
        if not isinstance(text, str) or text in done or text[:1] != "$":
            continue
        if any(
            re.search(rf"@{re.escape(id_)}\.set_", text) and _leads_to(configuration, id_, detector)
            for id_ in references_in(text)
        ):
            raise configuration.refused(
                f"{text!r:.120} sets something on the detector, and the evaluator does not require it", part
            )


def _gives_probabilities(call: MethodCall) -> bool:
    return call.given.get("apply_sigmoid", True) is True and call.unnamed <= _BEFORE_SIGMOID


def _is_of(configuration: Configuration, call: MethodCall, detector: Part) -> bool:
    return _leads_to(configuration, call.reference, detector)


def _leads_to(configuration: Configuration, id_: str, detector: Part) -> bool:
    part = configuration.part(id_)
    return part is not None and part.id == detector.id


def _postprocessing(configuration: Configuration) -> Part | None:
    """The chain that the boxes go through before they are saved."""
    found = configuration.part("postprocessing")
    for saver in configuration.made_by(_SAVER):
        said = saver.content.get("output_transform")
        text = re.sub(r"\s", "", said).replace('"', "'") if isinstance(said, str) else ""
        match = _OUTPUT_TRANSFORM.fullmatch(text)
        if match is None or not _is_image_key(configuration, match["key"]):
            raise configuration.refused(
                f"{saver.id}: {_SAVER} with output_transform {said!r:.120} can not be honoured"
            )
        found = configuration.part(match["part"])
    return found


def _is_image_key(configuration: Configuration, key: str) -> bool:
    if not key.startswith("@"):
        return True
    try:
        return isinstance(configuration.value(configuration.part(key[1:])), str)
    except CannotTell:
        return False

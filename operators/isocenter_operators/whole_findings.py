"""The operator that says what a model gives for the images as a whole: probabilities of classes, or numbers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec
from numpy.typing import NDArray

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.catalogue import segment_of
from isocenter_operators.dicom.findings import Code, Evaluation, Findings, Measurement, MeasurementGroup
from isocenter_operators.errors import InvalidResult
from isocenter_operators.run import Record

__all__ = ["WholeFindingsOperator", "classified", "measured"]

_Activation = Literal["", "softmax", "sigmoid"]

_OF_WHAT = {
    "softmax": "Each probability is the model's own figure for the images of this series as a whole, that they are of "
    "this class and of none of the others named here; together they are 100 %. It is not calibrated.",
    "sigmoid": "Each probability is the model's own figure for the images of this series as a whole, that they are of "
    "this class, whatever they are besides: classes do not exclude each other. It is not calibrated.",
    "": "The model gives no probabilities, only its decision, for the images of this series as a whole.",
}
_UNITS = {
    "%": codes.PERCENT,
    "mm": codes.MILLIMETER,
    "cm": Code("cm", "UCUM", "centimeter"),
    "ml": codes.MILLILITER,
    "hu": codes.HOUNSFIELD_UNIT,
    "ms": Code("ms", "UCUM", "millisecond"),
    "years": Code("a", "UCUM", "year"),
}
_UNIT_IN_NAMES = {"%": "percent", "ml": "mL", "hu": "HU"}  # the others as they are
_NO_UNITS = Code("1", "UCUM", "no units")


class WholeFindingsOperator(Operator):
    """Makes findings of what a model on Triton gives for a volume as a whole.

    Named input: `tensors`: `classes` FP64 [2, classes], probabilities 0 to 1 and 1 where the model decides for the
    class, each row NaN where the model does not give it; or `values` FP64 [values]; and `findings`, JSON as UTF-8 in
    bytes, which may hold a list of `notes`.
    Named output: `findings`.

    Parameters
    ----------
    output
        Which of the two tensors there is.
    names
        What each class, or each value with its unit in parentheses, is called, in order.
    activation
        How the probabilities came about, which decides what they are probabilities of.
    notes
        What a reader has to know of every result.

    Raises InvalidResult for another number of values, or one that is no probability.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        output: Literal["classes", "values"],
        names: Sequence[str],
        activation: _Activation = "",
        notes: Sequence[str] = (),
        record: Record | None = None,
        **kwargs: Any,
    ) -> None:
        self._output = output
        self._names = tuple(names)
        self._activation: _Activation = activation
        self._notes = tuple(notes)
        self._record = record or Record()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("tensors")
        spec.output("findings").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        tensors: Mapping[str, NDArray[Any]] = op_input.receive("tensors")
        with self._record.step("findings"):
            said = json.loads(np.asarray(tensors["findings"]).tobytes()).get("notes", ())
            notes = (*map(str, said), *self._notes)
            found = np.asarray(tensors[self._output], np.float64)
            if self._output == "classes":
                findings = classified(found, self._names, self._activation, notes)
            else:
                findings = measured(found, self._names, notes)
        self._record.findings = findings
        op_output.emit(findings, "findings")


def classified(
    found: NDArray[np.float64], names: Sequence[str], activation: _Activation, notes: Sequence[str] = ()
) -> Findings:
    """One group about the images as a whole: the probability of each class, and which the model decides for.

    found: (2, classes), see `WholeFindingsOperator`. Raises InvalidResult.
    """
    if found.shape != (2, len(names)):
        raise InvalidResult(f"the model gives {found.shape}, not two rows of {len(names)} classes")
    probabilities, decided = found
    stated = ~np.isnan(found)
    if not ((probabilities >= 0) & (probabilities <= 1))[stated[0]].all() or bool(activation) != bool(
        stated[0].all()
    ):
        raise InvalidResult(f"the model gives {probabilities.tolist()}, which are no probabilities")
    if not np.isin(decided[stated[1]], (0, 1)).all() or stated[1].any() != stated[1].all():
        raise InvalidResult(f"the model decides {decided.tolist()}, which is neither yes nor no")
    group = MeasurementGroup(
        label="Classification",
        finding=codes.CLASSIFICATION,
        measurements=tuple(
            Measurement(
                f"probability_{short}_percent",
                _private("P", f"Probability of {name}"),
                100 * float(probability),
                codes.PERCENT,
            )
            for short, name, probability in zip(_short(names), names, probabilities, strict=True)
            if activation
        ),
        evaluations=tuple(
            Evaluation(short, code, codes.YES if yes else codes.NO)
            for short, code, yes in zip(_short(names), _classes(names), decided, strict=True)
            if stated[1].all()
        ),
        notes=(_OF_WHAT[activation],),
    )
    return Findings((group,), tuple(notes))


def measured(found: NDArray[np.float64], names: Sequence[str], notes: Sequence[str] = ()) -> Findings:
    """One group about the images as a whole: each number with the unit that its name ends with, "Volume (mL)".

    Raises InvalidResult.
    """
    if found.shape != (len(names),):
        raise InvalidResult(f"the model gives {found.shape}, not {len(names)} values")
    if not np.isfinite(found).all():
        raise InvalidResult(f"the model gives {found.tolist()}, of which not each is a number")
    called = [_named(name) for name in names]
    called = [each if called.count(each) == 1 else name for each, name in zip(called, names, strict=True)]
    group = MeasurementGroup(
        label="Measurements",
        finding=codes.ESTIMATE,
        measurements=tuple(
            Measurement(short, _private("M", each), float(value), _unit(name), decimals=2)
            for short, each, name, value in zip(_short_with_units(names), called, names, found, strict=True)
        ),
        notes=("Each number is the model's estimate from the images of this series as a whole.",),
    )
    return Findings((group,), tuple(notes))


def _classes(names: Sequence[str]) -> list[Code]:
    """A code for each class: the catalogue's where it says all that the name does, and says it of no other class."""
    known = [segment_of(name, number)[0] for number, name in enumerate(names, 1)]
    types = [each.type for each in known]
    return [
        each.type
        if each.type.scheme != codes.PRIVATE_SCHEME
        and not (each.laterality or each.anatomic_region)
        and types.count(each.type) == 1
        else _private("C", name)
        for each, name in zip(known, names, strict=True)
    ]


def _private(kind: str, meaning: str) -> Code:
    digest = hashlib.sha256(meaning.lower().encode()).hexdigest()[:8].upper()
    return Code(f"{kind}-{digest}", codes.PRIVATE_SCHEME, meaning[:64])  # LO


def _unit(name: str) -> Code:
    return _UNITS.get(_unit_said(name), _NO_UNITS)


def _unit_said(name: str) -> str:
    """In small letters; "" where it is none that is known."""
    found = re.search(r"\(([^()]+)\)\s*$", name)
    said = found[1].strip().lower() if found else ""
    return said if said in _UNITS else ""


def _named(name: str) -> str:
    """Without the unit, where that is known."""
    return re.sub(r"\s*\([^()]+\)\s*$", "", name) if _unit_said(name) else name


def _short(names: Sequence[str]) -> list[str]:
    """For tables and JSON; with its number where two would be called the same."""
    return _apart([_slug(name) for name in names])


def _short_with_units(names: Sequence[str]) -> list[str]:
    """As `_short`, with the unit as every measurement's name has it: `volume_mL`."""
    units = [_UNIT_IN_NAMES.get(said, said) for said in map(_unit_said, names)]
    slugs = [_slug(_named(name)) for name in names]
    return _apart([f"{slug}_{unit}" if unit else slug for slug, unit in zip(slugs, units, strict=True)])


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "unnamed"


def _apart(short: Sequence[str]) -> list[str]:
    return [each if short.count(each) == 1 else f"{each}_{number}" for number, each in enumerate(short, 1)]

"""The pixels of a result picture: a section in its window, outlines over it, a table of the numbers under it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from isocenter_operators.dicom.findings import Findings, Measurement, MeasurementGroup, Segment
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicom.results.plane import Sampling, Section
from isocenter_operators.dicom.series.geometry import Volume

__all__ = ["SIZE", "drawn", "section_drawn"]

SIZE = 1024  # pixels, both ways: large enough to read at half size in a viewer's viewport
_LUNG_WINDOW_HU = (-1350.0, 150.0)  # centre -600, width 1500
_MARGIN, _HEADER, _TABLE_HEAD, _ROW, _NOTE, _FOOTER = 40, 48, 64, 44, 28, 40
_BLACK, _TEXT, _QUIET, _RULE, _CAUTION = (
    (0, 0, 0),
    (228, 231, 235),
    (150, 157, 165),
    (58, 64, 71),
    (236, 190, 98),
)
_MOST_ROWS = 9  # of the table: with more there would be no room for the image above it
_FILL = 0.20  # opacity of a segment's inside
_UNITS = {"[hnsf'U]": "HU"}

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def drawn(
    *,
    section: Section,
    volume: Volume,
    labels: NDArray[np.uint8],
    segments: Sequence[Segment],
    findings: Findings,
    algorithm: Algorithm,
    disclaimer: str,
) -> NDArray[np.uint8]:
    """The picture: uint8 (SIZE, SIZE, 3), RGB."""
    canvas = Image.new("RGB", (SIZE, SIZE), _BLACK)
    draw = ImageDraw.Draw(canvas)
    groups = findings.groups[:_MOST_ROWS]
    notes = [*_left_out(len(findings.groups) - len(groups)), *_wrapped(_notes(findings))]
    table_top = SIZE - _FOOTER - _NOTE * len(notes) - _ROW * len(groups) - _TABLE_HEAD
    _paste_section(canvas, section, volume, labels, segments, top=_HEADER, bottom=table_top - 12)
    _draw_header(draw, section, algorithm)
    y = _draw_table(draw, groups, segments, table_top)
    for note in notes:
        draw.text((_MARGIN, y + _NOTE // 2), note, font=_font(19), fill=_CAUTION, anchor="lm")
        y += _NOTE
    _draw_footer(draw, algorithm, disclaimer)
    return np.asarray(canvas)


@cache
def _font(size: int) -> _Font:
    return ImageFont.load_default(size)


def _paste_section(
    canvas: Image.Image,
    section: Section,
    volume: Volume,
    labels: NDArray[np.uint8],
    segments: Sequence[Segment],
    *,
    top: int,
    bottom: int,
) -> None:
    """The section as large as it fits."""
    scale = min(
        (SIZE - 2 * _MARGIN) / section.size_mm[0], (bottom - top) / section.size_mm[1]
    )  # pixels per mm
    pixels = section_drawn(
        section=section, volume=volume, labels=labels, segments=segments, pixels_per_mm=scale
    )
    height, width = pixels.shape[:2]
    canvas.paste(Image.fromarray(pixels), ((SIZE - width) // 2, top + (bottom - top - height) // 2))


def section_drawn(
    *,
    section: Section,
    volume: Volume,
    labels: NDArray[np.uint8],
    segments: Sequence[Segment],
    pixels_per_mm: float,
) -> NDArray[np.uint8]:
    """The section alone, with outlines, markers and a scale: uint8 (rows, columns, 3), RGB."""
    width, height = (max(1, int(length * pixels_per_mm)) for length in section.size_mm)
    depth, rows, columns = labels.shape
    sampled = Sampling(volume.affine, (depth, rows, columns), section.points(width, height))
    grey = _windowed(sampled(volume.voxels, outside=-32768.0), volume)
    picture = np.repeat(grey[..., None], 3, axis=2)
    for segment in segments:
        inside = sampled(labels, of=partial(np.equal, segment.number))
        _blend(picture, inside, segment.display_rgb, pixels_per_mm * min(volume.spacing_mm))
    drawing = Image.fromarray(np.rint(picture).astype(np.uint8))
    draw = ImageDraw.Draw(drawing)
    _draw_markers(draw, section, (0, 0, width, height))
    _draw_scale(draw, pixels_per_mm, 16, height - 18)
    return np.asarray(drawing)


def _windowed(values: NDArray[np.float32], volume: Volume) -> NDArray[np.float32]:
    """Grey levels 0..255 in the lung window; for what is not CT, between the section's own extremes."""
    low, high = _LUNG_WINDOW_HU
    if volume.sources[0].get("Modality") != "CT":
        known = values[values > -32768.0]
        low, high = (float(v) for v in np.percentile(known, (1, 99))) if known.size else (0.0, 1.0)
    grey: NDArray[np.float32] = np.clip((values - low) * (255.0 / max(high - low, 1.0)), 0.0, 255.0)
    return grey


def _blend(
    picture: NDArray[np.float32],
    inside: NDArray[np.float32],
    rgb: tuple[int, int, int],
    voxel_px: float,
) -> None:
    """Colour a region's inside lightly and its edge clearly, `inside` being its share of each pixel (0..1)."""
    if not inside.any():
        return
    # Voxels are several pixels wide: without this the outline shows their corners, not the organ's.
    share = ndimage.gaussian_filter(inside, 0.5 * voxel_px)
    down, right = np.gradient(share)
    distance_px = (share - 0.5) / np.maximum(np.hypot(down, right), 1e-3)  # from the edge, positive inside
    edge = np.clip(1.8 - np.abs(distance_px), 0.0, 1.0)
    opacity = np.maximum(edge * 0.95, _FILL * np.clip(distance_px + 0.5, 0.0, 1.0))[..., None]
    picture += opacity * (np.array(rgb, np.float32) - picture)


def _draw_markers(draw: ImageDraw.ImageDraw, section: Section, box: tuple[int, int, int, int]) -> None:
    x0, y0, x1, y1 = box
    left, right, top, bottom = section.markers
    middle_x, middle_y = (x0 + x1) // 2, (y0 + y1) // 2
    for letter, where, anchor in (
        (left, (x0 + 14, middle_y), "lm"),
        (right, (x1 - 14, middle_y), "rm"),
        (top, (middle_x, y0 + 10), "mt"),
        (bottom, (middle_x, y1 - 10), "mb"),
    ):
        draw.text(
            where, letter, font=_font(28), fill=_TEXT, anchor=anchor, stroke_width=2, stroke_fill=_BLACK
        )


def _draw_scale(draw: ImageDraw.ImageDraw, pixels_per_mm: float, x: int, y: int) -> None:
    length = round(50 * pixels_per_mm)
    for width, colour in ((6, _BLACK), (2, _TEXT)):
        draw.line([(x, y), (x + length, y)], fill=colour, width=width)
    draw.text((x, y - 8), "5 cm", font=_font(17), fill=_TEXT, anchor="lb", stroke_width=2, stroke_fill=_BLACK)


def _draw_header(draw: ImageDraw.ImageDraw, section: Section, algorithm: Algorithm) -> None:
    middle = _HEADER // 2
    title = f"{section.view.capitalize()}, {section.of}"
    draw.text((_MARGIN, middle), title, font=_font(22), fill=_TEXT, anchor="lm")
    who = _shortened(f"{algorithm.name} {algorithm.version}", 22, SIZE // 2 - _MARGIN)
    draw.text((SIZE - _MARGIN, middle), who, font=_font(22), fill=_QUIET, anchor="rm")


def _draw_table(
    draw: ImageDraw.ImageDraw, groups: Sequence[MeasurementGroup], segments: Sequence[Segment], top: int
) -> int:
    """One row for each region, one column for each measurement. Gives the y below it."""
    columns = _columns(groups)
    first_width = 250
    step = (SIZE - 2 * _MARGIN - first_width) / max(len(columns), 1)
    edges = [round(_MARGIN + first_width + step * (i + 1)) for i in range(len(columns))]
    for (name, unit), x in zip(columns, edges, strict=True):
        draw.text((x, top + 20), _shortened(name, 20, step - 16), font=_font(20), fill=_TEXT, anchor="rm")
        draw.text((x, top + 44), unit, font=_font(18), fill=_QUIET, anchor="rm")
    y = top + _TABLE_HEAD
    colours = {segment.number: segment.display_rgb for segment in segments}
    for group in groups:
        draw.line([(_MARGIN, y), (SIZE - _MARGIN, y)], fill=_RULE, width=1)
        middle = y + _ROW // 2
        _draw_swatch(draw, [colours[n] for n in group.segment_numbers if n in colours], middle)
        label = _shortened(group.label, 23, first_width - 40)
        draw.text((_MARGIN + 34, middle), label, font=_font(23), fill=_TEXT, anchor="lm")
        values = {_heading(measurement): _number(measurement) for measurement in group.measurements}
        for column, x in zip(columns, edges, strict=True):
            draw.text((x, middle), values.get(column, ""), font=_font(25), fill=_TEXT, anchor="rm")
        y += _ROW
    draw.line([(_MARGIN, y), (SIZE - _MARGIN, y)], fill=_RULE, width=1)
    return y + 4


def _draw_swatch(draw: ImageDraw.ImageDraw, colours: Sequence[tuple[int, int, int]], middle: int) -> None:
    for i, colour in enumerate(colours):
        x0, x1 = (_MARGIN + round(20 * part / len(colours)) for part in (i, i + 1))
        draw.rectangle([(x0, middle - 10), (x1 - 1, middle + 9)], fill=colour)


def _draw_footer(draw: ImageDraw.ImageDraw, algorithm: Algorithm, disclaimer: str) -> None:
    models = ", ".join(f"model {name} {version}" for name, version in sorted(algorithm.models.items()))
    middle = SIZE - _FOOTER // 2
    said = _shortened(disclaimer, 20, SIZE * 0.62)
    draw.text((_MARGIN, middle), said, font=_font(20), fill=_TEXT, anchor="lm")
    room = SIZE - 3 * _MARGIN - _font(20).getlength(said)
    draw.text(
        (SIZE - _MARGIN, middle), _shortened(models, 17, room), font=_font(17), fill=_QUIET, anchor="rm"
    )


def _columns(groups: Sequence[MeasurementGroup]) -> list[tuple[str, str]]:
    """Each measurement's heading, in the order they are first met."""
    return list(dict.fromkeys(_heading(m) for group in groups for m in group.measurements))


def _heading(measurement: Measurement) -> tuple[str, str]:
    """Its name for people and its unit: "laa_950_percent" -> ("LAA-950", "%")."""
    unit = _UNITS.get(measurement.unit.value, measurement.unit.value)
    words = measurement.name.split("_")
    if len(words) > 1 and words[-1] in (unit, measurement.unit.meaning.lower()):
        words = words[:-1]
    if len(words[0]) <= 3:
        return "-".join([words[0].upper(), *words[1:]]), unit
    return " ".join(words).capitalize(), unit


def _number(measurement: Measurement) -> str:
    if not math.isfinite(measurement.value):
        return "n/a"
    text = f"{measurement.value:.{measurement.decimals}f}"
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text


def _notes(findings: Findings) -> Iterator[str]:
    for group in findings.groups:
        for note in group.notes:
            yield f"{group.label}: {note}"
    yield from findings.notes


def _left_out(groups: int) -> Iterator[str]:
    """Rows for which there is no room are counted, not hidden."""
    if groups > 0:
        yield f"and {groups} more {'region' if groups == 1 else 'regions'} in the structured report"


def _wrapped(notes: Iterator[str], most: int = 6) -> Iterator[str]:
    """The notes in lines that fit; more than there is room for are counted, not hidden."""
    lines: list[str] = []
    for note in notes:
        line = ""
        for word in note.split():
            longer = f"{line} {word}".strip()
            if line and _font(19).getlength(longer) > SIZE - 2 * _MARGIN:
                lines.append(line)
                longer = word
            line = longer
        lines.append(_shortened(line, 19, SIZE - 2 * _MARGIN))
    if len(lines) > most:
        lines = [
            *lines[: most - 1],
            f"and {len(lines) - most + 1} more lines of notes in the structured report",
        ]
    yield from lines


def _shortened(text: str, size: int, width: float) -> str:
    if _font(size).getlength(text) <= width:
        return text
    while text and _font(size).getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."

"""A report as a page: title, identity, pictures, tables, notes. PDF/A, always the same bytes. Nothing of DICOM.

The typeface is FiraGO, embedded: Latin, Cyrillic, Greek, Hebrew, Arabic, Thai, Georgian and Devanagari, set by HarfBuzz
from right to left where they run so. What no font at hand has is left out in words, never shown as a box.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal
from xml.sax.saxutils import escape

import numpy as np
from fpdf import FPDF, ViewerPreferences
from fpdf.enums import MethodReturnValue
from fpdf.fonts import TTFFont
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Column", "Page", "Picture", "Row", "Table", "page_pdf"]

_RGB = tuple[int, int, int]
_Align = Literal["L", "R"]
_INK, _QUIET, _RULE, _PANEL, _ACCENT = (
    (28, 33, 38),
    (104, 112, 120),
    (208, 213, 218),
    (244, 246, 248),
    (32, 84, 122),
)
_MARGIN, _TOP, _BOTTOM, _GAP = 18.0, 16.0, 23.0, 5.0  # mm
_FACE = "firago"
_WEIGHTS = {"": "FiraGO_Regular", "B": "FiraGO_Bold"}
_NOT_SHOWN = "(letters that this page can not show)"
_NAME_NOT_SHOWN = "(name in a script that this page can not show)"
_XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/">
  <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
    <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
        xmlns:pdfaid="http://www.aiim.org/pdfa/ns/id/" xmp:CreatorTool="Isocenter" xmp:CreateDate="{created}"
        xmp:ModifyDate="{created}" xmp:MetadataDate="{created}" pdfaid:part="2" pdfaid:conformance="U">
      <dc:title><rdf:Alt><rdf:li xml:lang="x-default">{title}</rdf:li></rdf:Alt></dc:title>
      <dc:creator><rdf:Seq><rdf:li>{author}</rdf:li></rdf:Seq></dc:creator>
    </rdf:Description>
  </rdf:RDF>
</x:xmpmeta>"""
_LARGEST_PICTURE_MM, _WIDEST_FIGURES_MM = 92.0, 44.0


@dataclass(frozen=True, eq=False)
class Picture:
    """`pixels`: uint8 (rows, columns, 3), RGB. `caption` stands under it, `described` in its place for who can not see
    it."""

    pixels: NDArray[np.uint8]
    caption: str
    described: str


@dataclass(frozen=True)
class Column:
    """A heading, and under it a unit or nothing."""

    heading: str
    unit: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Row:
    """`colours`: of what the row is about, as it has them in the pictures; RGB, 0..255 each."""

    label: str
    cells: tuple[str, ...]
    colours: tuple[_RGB, ...] = ()


@dataclass(frozen=True)
class Table:
    """`first`: the heading of the rows' labels. Each row has as many cells as there are columns."""

    title: str
    first: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Page:
    """All that is on it. `identity`: each a label and a value; `running`: who it is about, on every further sheet.

    A value is one text or several that say the same, as a name in Latin letters and in its own: those that can be set
    are shown, and that there are others is said.
    """

    kind: str  # above the title: "CT Report"
    title: str
    identity: tuple[tuple[str, tuple[str, ...]], ...]
    running: tuple[tuple[str, ...], ...]
    summary: str
    pictures: tuple[Picture, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    about: tuple[str, ...]
    disclaimer: str
    made_by: str
    created: datetime
    identifier: str  # of this page and no other
    paper: Literal["A4", "Letter"] = "A4"
    fonts: tuple[Path, ...] = field(default=())  # TrueType or OpenType, for further scripts


def page_pdf(page: Page) -> bytes:
    """The page as PDF/A-2U, with as many sheets as it takes. The same bytes for the same page."""
    with _typefaces() as faces:
        document = _Document(page, faces)
        document.add_page()
        document.lay_out()
        return bytes(document.output())


@contextmanager
def _typefaces() -> Iterator[Mapping[str, Path]]:
    """The fonts as files, which is how fpdf2 takes them; their package holds them packed in modules."""
    with TemporaryDirectory() as folder:
        paths = {}
        for style, name in _WEIGHTS.items():
            paths[style] = Path(folder) / f"{name}.ttf"
            paths[style].write_bytes(import_module(f"pymupdf_fonts.{name}").fontbuffer)
        yield paths


class _Document(FPDF):
    def __init__(self, page: Page, faces: Mapping[str, Path]) -> None:
        super().__init__(format=page.paper, enforce_compliance="PDF/A-2U")
        self._page = page
        for style, path in faces.items():
            self.add_font(_FACE, style, path)
        others = [f"other{number}" for number in range(len(page.fonts))]
        for name, path in zip(others, page.fonts, strict=True):
            self.add_font(name, "", path)
        if others:
            self.set_fallback_fonts(others, exact_match=False)
        self._known = {
            code for font in self.fonts.values() if isinstance(font, TTFFont) for code in font.cmap
        } - {0xFFFD}
        self.set_text_shaping(use_shaping_engine=True, features={"tnum": True, "kern": True})
        self.set_margins(_MARGIN, _TOP, _MARGIN)
        self.c_margin = 0  # text stands flush with rules and pictures
        self.set_auto_page_break(auto=True, margin=_BOTTOM)
        self.set_title(self._shown(page.title))
        self.set_author(self._shown(page.made_by))
        self.set_lang("en")
        self.set_creator("Isocenter")
        # A time without a zone would be taken for one of this machine's.
        created = page.created if page.created.tzinfo else page.created.replace(tzinfo=UTC)
        self.set_creation_date(created)
        self.set_xmp_metadata(self._xmp(created.astimezone(UTC).isoformat(timespec="seconds")))
        self.viewer_preferences = ViewerPreferences(display_doc_title=True)

    def _xmp(self, created: str) -> str:
        """The metadata of PDF/A (ISO 19005-2, 6.6); fpdf2's own says when it is run."""
        title, author = (escape(str(text)) for text in (self.title, self.author))
        return _XMP.format(title=title, author=author, created=created)

    def file_id(self) -> str:
        """The file's identifier, of what it is of; fpdf2's own is of the time of day."""
        digest = hashlib.sha256(self._page.identifier.encode()).hexdigest()[:32].upper()
        return f"<{digest}><{digest}>"

    def header(self) -> None:
        """On every sheet after the first: what this is and about whom."""
        if self.page == 1:
            return
        self._write(self._page.title, size=9, style="B")
        top, step = self.get_y() + 0.5, self.epw / 3
        below = top
        for place, forms in enumerate(self._page.running):
            x = self.l_margin + place * step
            below = max(below, self._paragraphs(self._one_of(forms), x, top, step - 3, size=9))
        self._rule(below + 1.5)
        self.set_y(below + 5)

    def footer(self) -> None:
        self.set_y(-_BOTTOM + 7)
        self._rule(self.get_y() - 2)
        top = self.get_y()
        self._write(self._page.disclaimer, size=8.5, style="B", width=self.epw - 30)
        self.set_font(_FACE, "", 8.5)  # {nb}, which becomes the number of sheets, is wider than that number
        self.set_xy(self.w - _MARGIN - self.get_string_width(f"Page {self.page} of {max(9, self.page)}"), top)
        self._write(f"Page {self.page} of {{nb}}", size=8.5, colour=_QUIET, width=30)
        self.set_y(top + 4.6)
        self._write(self._page.made_by, size=7.5, colour=_QUIET)

    def lay_out(self) -> None:
        page = self._page
        self._write(page.kind.upper(), size=8.5, style="B", colour=_ACCENT)
        self._space(1)
        self._write(page.title, size=20, style="B")
        self._space(3.5)
        self._panel([(label, self._one_of(forms)) for label, forms in page.identity])
        self._space(_GAP)
        self._write(page.summary, size=10.5, line=5.2)
        if page.pictures:
            self._space(_GAP)
            self._pictures(page.pictures)
        for table in page.tables:
            self._space(_GAP)
            self._table(table)
        for heading, texts in (("Notes", page.notes), ("About this report", page.about)):
            if texts:
                self._space(_GAP)
                self._list(heading, texts)

    def _panel(self, pairs: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Label over value, three in a row, on a light ground; a long value takes the lines it needs."""
        if not pairs:
            return
        step, pad = self.epw / 3, 3.2
        rows = [pairs[i : i + 3] for i in range(0, len(pairs), 3)]
        heights = [
            5.2
            + 5.0
            * max(
                sum(self._lines(text, size=10.5, style="B", width=step - pad) for text in texts)
                for _, texts in row
            )
            for row in rows
        ]
        top, y = self.get_y(), self.get_y() + pad
        self.set_fill_color(*_PANEL)
        below = top + sum(heights) - 1 + 2 * pad
        self.rect(self.l_margin, top, self.epw, below - top, style="F", round_corners=True, corner_radius=1.5)
        for row, height in zip(rows, heights, strict=True):
            for place, (label, texts) in enumerate(row):
                x = self.l_margin + place * step + pad
                self.set_xy(x, y)
                self._write(label, size=8, colour=_QUIET, width=step - pad)
                self._paragraphs(texts, x, y + 4, step - pad, size=10.5, style="B", colour=_INK)
            y += height
        self.set_y(below)

    def _paragraphs(
        self,
        texts: Sequence[str],
        x: float,
        y: float,
        width: float,
        *,
        size: float,
        style: Literal["", "B"] = "",
        colour: _RGB = _QUIET,
    ) -> float:
        """Under each other from there on. What runs from right to left in one of them does not move another one's
        figures. Gives the y below them."""
        self.set_y(y)
        for text in texts:
            self.set_x(x)
            self._write(text, size=size, style=style, colour=colour, width=width, line=size * 0.475)
        return self.get_y()

    def _pictures(self, pictures: Sequence[Picture]) -> None:
        """Two beside each other, of the same height; where one would be too narrow so, under each other."""
        for row in _rows_of(pictures):
            shapes = [_width_to_height(picture) for picture in row]
            height = min(_LARGEST_PICTURE_MM, (self.epw - 4 * (len(row) - 1)) / sum(shapes))
            self._make_room(height + 9)
            top, x = self.get_y(), self.l_margin
            for picture, shape in zip(row, shapes, strict=True):
                drawing = Image.fromarray(picture.pixels)
                alternative = self._shown(picture.described)
                self.image(drawing, x=x, y=top, w=height * shape, h=height, alt_text=alternative)
                self.set_xy(x, top + height + 1.2)
                self._write(picture.caption, size=8.5, colour=_QUIET, width=max(height * shape, 40.0))
                x += height * shape + 4
            self.set_y(top + height + 6)

    def _table(self, table: Table) -> None:
        widths = self._widths(table)
        first_row = self._row_height(table.rows[0], widths) if table.rows else 0.0
        self._make_room(8 + self._heading_height(table, widths) + first_row)
        self._write(table.title, size=12, style="B")
        self._space(1.5)
        self._headings(table, widths)
        for row in table.rows:
            height = self._row_height(row, widths)
            if self._make_room(height):
                self._headings(table, widths)
            self._row(table, row, widths, height)

    def _widths(self, table: Table) -> list[float]:
        first = self.epw * (0.28 if len(table.columns) > 2 else 0.36)
        if not table.columns:
            return [first]
        share = (self.epw - first) / len(table.columns)
        return [
            first,
            *(min(share, _WIDEST_FIGURES_MM) if column.numeric else share for column in table.columns),
        ]

    def _heading_height(self, table: Table, widths: Sequence[float]) -> float:
        lines = [
            self._lines(column.heading, size=8.5, style="B", width=width - 3) + bool(column.unit)
            for column, width in zip(table.columns, widths[1:], strict=True)
        ]
        return max(lines, default=1) * 4.0 + 3.0

    def _headings(self, table: Table, widths: Sequence[float]) -> None:
        top, height = self.get_y(), self._heading_height(table, widths)
        self.set_xy(self.l_margin, top + height - 5.5)
        self._write(table.first, size=8.5, style="B", width=widths[0] - 3)
        x = self.l_margin + widths[0]
        for column, width in zip(table.columns, widths[1:], strict=True):
            lines = self._lines(column.heading, size=8.5, style="B", width=width - 3) + bool(column.unit)
            self.set_xy(x + 3, top + height - 1.5 - 4.0 * lines)
            align: _Align = "R" if column.numeric else "L"
            self._write(column.heading, size=8.5, style="B", width=width - 3, line=4.0, align=align)
            if column.unit:
                self.set_x(x + 3)
                self._write(column.unit, size=8.5, colour=_QUIET, width=width - 3, line=4.0, align=align)
            x += width
        self.set_y(top + height)
        self._rule(self.get_y(), colour=_QUIET, width=sum(widths))

    def _row_height(self, row: Row, widths: Sequence[float]) -> float:
        lines = [self._lines(row.label, size=10, width=widths[0] - 8)]
        lines += [
            self._lines(cell, size=10, width=width - 3)
            for cell, width in zip(row.cells, widths[1:], strict=True)
        ]
        return max(lines) * 4.6 + 3.0

    def _row(self, table: Table, row: Row, widths: Sequence[float], height: float) -> None:
        top = self.get_y()
        for place, colour in enumerate(row.colours[:4]):
            part = 3.2 / len(row.colours[:4])
            self.set_fill_color(*colour)
            self.rect(self.l_margin + place * part, top + 2.2, part, 3.2, style="F")
        self.set_xy(self.l_margin + (5 if row.colours else 0), top + 1.5)
        self._write(row.label, size=10, width=widths[0] - 8, line=4.6)
        x = self.l_margin + widths[0]
        for column, cell, width in zip(table.columns, row.cells, widths[1:], strict=True):
            self.set_xy(x + 3, top + 1.5)
            self._write(cell, size=10, width=width - 3, line=4.6, align="R" if column.numeric else "L")
            x += width
        self.set_y(top + height)
        self._rule(self.get_y(), width=sum(widths))

    def _list(self, heading: str, texts: Sequence[str]) -> None:
        self._make_room(14)
        self._write(heading, size=12, style="B")
        self._space(1)
        for text in texts:
            self._make_room(self._lines(text, size=9.5, width=self.epw) * 4.7)
            self._write(text, size=9.5, line=4.7)
            self._space(0.8)

    def _write(
        self,
        text: str,
        *,
        size: float,
        style: Literal["", "B"] = "",
        colour: _RGB = _INK,
        width: float = 0.0,
        line: float = 0.0,
        align: _Align = "L",
    ) -> None:
        """A paragraph from where the pen is, of `width` mm; afterwards the pen is below it, at the left margin."""
        self.set_font(_FACE, style, size)
        self.set_text_color(*colour)
        self.multi_cell(
            width or self.w - self.r_margin - self.get_x(),
            line or size * 0.45,
            self._shown(text),
            align=align,
            padding=0,
            new_x="LMARGIN",
            new_y="NEXT",
        )

    def _lines(self, text: str, *, size: float, width: float, style: Literal["", "B"] = "") -> int:
        """How many lines the text takes."""
        self.set_font(_FACE, style, size)
        lines = self.multi_cell(width, 1, self._shown(text), dry_run=True, output=MethodReturnValue.LINES)
        return max(1, len(lines))  # type: ignore[arg-type]

    def _shown(self, text: str) -> str:
        """The text as far as there are letters for it; what is left out is said."""
        shown: list[str] = []
        for character in " ".join(text.split()):
            if ord(character) in self._known:
                shown.append(character)
            elif shown[-1:] != [_NOT_SHOWN]:
                shown.append(_NOT_SHOWN)
        return "".join(shown)

    def _one_of(self, forms: Sequence[str]) -> list[str]:
        """Those forms of a text that can be set whole, and whether there are others."""
        shown = [form for form in forms if self._shown(form) == " ".join(form.split())]
        others = [_NAME_NOT_SHOWN] if len(shown) < len(forms) else []
        return [*shown, *others]

    def _rule(self, y: float, colour: _RGB = _RULE, width: float = 0.0) -> None:
        self.set_draw_color(*colour)
        self.set_line_width(0.2)
        self.line(self.l_margin, y, self.l_margin + (width or self.epw), y)

    def _space(self, mm: float) -> None:
        self.set_y(self.get_y() + mm)

    def _make_room(self, height: float) -> bool:
        """Go on to a new sheet where `height` mm do not fit on this one; says whether it did."""
        if not self.will_page_break(height):
            return False
        self.add_page()
        return True


def _rows_of(pictures: Sequence[Picture]) -> Iterator[Sequence[Picture]]:
    for pair in (pictures[i : i + 2] for i in range(0, len(pictures), 2)):
        shapes = [_width_to_height(picture) for picture in pair]
        if min(shapes) > 0.3 * sum(shapes):
            yield pair
        else:
            yield from ([picture] for picture in pair)


def _width_to_height(picture: Picture) -> float:
    return float(picture.pixels.shape[1] / picture.pixels.shape[0])

"""What an Encapsulated PDF has to fulfil (PS3.3, A.45.1, C.24.2)."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from isocenter_operators.dicom.rules.problem import Problem, absent, error, warning

__all__ = ["encapsulated_pdf_problems"]


def encapsulated_pdf_problems(document: Dataset) -> Iterator[Problem]:
    """Every problem of one Encapsulated PDF."""
    missing = list(
        absent(document, ("EncapsulatedDocument", "MIMETypeOfEncapsulatedDocument", "BurnedInAnnotation"))
    )
    yield from missing
    for keyword in ("DocumentTitle", "ConceptNameCodeSequence", "ContentDate", "ContentTime"):
        if keyword not in document:
            yield error(keyword, "has to be there, if only empty")
    if document.get("MIMETypeOfEncapsulatedDocument") not in (None, "application/pdf"):
        yield error("MIMETypeOfEncapsulatedDocument", "is not application/pdf")
    if not document.get("DocumentTitle"):
        yield warning("DocumentTitle", "is empty: readers see a document without a name")
    if "EncapsulatedDocument" in document and document.EncapsulatedDocument:
        yield from _content_problems(document)


def _content_problems(document: Dataset) -> Iterator[Problem]:
    content = bytes(document.EncapsulatedDocument)
    length = document.get("EncapsulatedDocumentLength")
    if length is not None and not len(content) - 1 <= int(length) <= len(content):
        yield error("EncapsulatedDocumentLength", "is not the length of the document")
    if not content.startswith(b"%PDF-"):
        yield error("EncapsulatedDocument", "does not begin as a PDF")
    elif b"%%EOF" not in content[-1024:]:
        yield error("EncapsulatedDocument", "does not end as a PDF: it was cut off")

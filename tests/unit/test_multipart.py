"""A multipart body comes out whole, however the network cuts it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isocenter_operators.dicomweb.multipart import boundary_of, parts


def _body(contents: list[bytes], *, with_length: bool) -> bytes:
    body = b"preamble"
    for content in contents:
        length = b"Content-Length: %d\r\n" % len(content) if with_length else b""
        body += b"\r\n--BOUND\r\nContent-Type: application/dicom\r\n" + length + b"\r\n" + content
    return body + b"\r\n--BOUND--\r\n"


@given(
    contents=st.lists(st.binary(max_size=200).filter(lambda c: b"--BOUND" not in c), min_size=1, max_size=5),
    cut=st.integers(1, 50),
    with_length=st.booleans(),
)
def test_parts_survive_any_cut(contents: list[bytes], cut: int, with_length: bool) -> None:
    body = _body(contents, with_length=with_length)
    chunks = [body[i : i + cut] for i in range(0, len(body), cut)]
    assert list(parts(chunks, b"BOUND")) == contents


def test_a_part_may_hold_the_boundary_where_its_length_is_given() -> None:
    content = b"pixels \r\n--BOUND pixels"
    assert list(parts([_body([content], with_length=True)], b"BOUND")) == [content]


@pytest.mark.parametrize("end", [10, 60, -12])
def test_a_body_that_ends_early_is_an_error(end: int) -> None:
    with pytest.raises(ValueError, match="ended before"):
        list(parts([_body([b"x" * 100], with_length=False)[:end]], b"BOUND"))


def test_the_boundary_is_read_from_the_header() -> None:
    assert boundary_of('multipart/related; type="application/dicom"; boundary="a b"') == b"a b"
    with pytest.raises(ValueError, match="no multipart boundary"):
        boundary_of("application/json")

"""A multipart body comes out whole, however the network cuts it."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isocenter_operators.dicomweb.multipart import boundary_of, parts


class _Cut:
    """A body that comes in pieces."""

    def __init__(self, content: bytes, cut: int = 50) -> None:
        self._content, self._cut = BytesIO(content), cut

    def readinto(self, buffer: memoryview, /) -> int:
        return self._content.readinto(buffer[: self._cut])


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
    assert list(parts(_Cut(body, cut), b"BOUND")) == contents


def test_a_part_may_hold_the_boundary_where_its_length_is_given() -> None:
    content = b"pixels \r\n--BOUND pixels"
    assert list(parts(_Cut(_body([content], with_length=True)), b"BOUND")) == [content]


@pytest.mark.parametrize("with_length", [True, False])
def test_parts_larger_than_a_block_stay_whole_while_others_come(with_length: bool) -> None:
    sizes = [5 << 20, 20 << 20, 3, 40 << 20, 7 << 20]
    contents = [bytes([number]) * size for number, size in enumerate(sizes, 1)]
    body = _Cut(_body(contents, with_length=with_length), 1 << 20)
    received = list(parts(body, b"BOUND"))  # all are kept: what comes later must not be written over them
    assert [len(part) for part in received] == sizes
    assert all(part == content for part, content in zip(received, contents, strict=True))


@pytest.mark.parametrize("length", [b"-1", b"5000000000"])
def test_a_part_of_no_such_length_is_an_error(length: bytes) -> None:
    body = b"\r\n--BOUND\r\nContent-Length: " + length + b"\r\n\r\nx\r\n--BOUND--"
    with pytest.raises(ValueError, match="bytes is not taken"):
        list(parts(_Cut(body), b"BOUND"))


@pytest.mark.parametrize("end", [10, 60, -12])
def test_a_body_that_ends_early_is_an_error(end: int) -> None:
    with pytest.raises(ValueError, match="ended before"):
        list(parts(_Cut(_body([b"x" * 100], with_length=False)[:end]), b"BOUND"))


def test_the_boundary_is_read_from_the_header() -> None:
    assert boundary_of('multipart/related; type="application/dicom"; boundary="a b"') == b"a b"
    with pytest.raises(ValueError, match="no multipart boundary"):
        boundary_of("application/json")

"""Tags are found in TIFFs of both orders and sizes, and damage is nothing but their absence."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terrazzo.tiff_tags import first_directory, is_tiff


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_big", [False, True])
def test_values_are_found(order: str, is_big: bool) -> None:
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}2sHHHQ", mark, 43, 8, 0, 16) if is_big else struct.pack(f"{order}2sHI8x", mark, 42, 16)
    entry, count, directory = (f"{order}HHQQ", "Q", 16) if is_big else (f"{order}HHII", "H", 16)
    body = struct.pack(order + count, 2) + struct.pack(entry, 256, 3, 1, 7) + struct.pack(entry, 305, 2, 20, 90)
    data = (head + body).ljust(90, b"\0") + b"terrazzo".ljust(20, b"\0")
    tags = first_directory(io.BytesIO(data))
    assert is_tiff(data) and sorted(tags) == [256, 305]
    assert (tags[305].offset, tags[305].length) == (90, 20)
    inline = directory + (8 + 12 if is_big else 2 + 8)
    assert (tags[256].offset, tags[256].length) == (inline, 2)


@given(st.sampled_from([b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b""]), st.binary(max_size=200))
def test_damaged_files_have_none_or_some(start: bytes, rest: bytes) -> None:
    for tag in first_directory(io.BytesIO(start + rest)).values():
        assert tag.length >= 0 and tag.offset >= 0

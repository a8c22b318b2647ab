"""Arrays that are put aside come back as they were, from memory and from the temporary file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from terrazzo.inference import scratch as module
from terrazzo.inference.scratch import CompressedRows, Scratch


@pytest.mark.parametrize("in_memory", [0, 1000, 1 << 20])
def test_arrays_of_any_layout_come_back(in_memory: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    planes = rng.normal(size=(5, 4, 6)).astype(np.float32)
    arrays = [planes, planes.transpose(1, 2, 0), planes[:, 1:3], planes[..., ::2], planes[0] > 0, planes[:, :0]]
    with Scratch(tmp_path, in_memory) as scratch:
        for number, array in enumerate(arrays):
            scratch[number] = array
        for number, array in enumerate(arrays):
            np.testing.assert_array_equal(scratch[number], array)
            assert scratch[number].dtype == array.dtype
        np.testing.assert_array_equal(scratch.rows(4, 1, 3), arrays[4][1:3])
        assert list(tmp_path.iterdir()) == []  # the file has no name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("in_memory", [0, 500])
def test_a_new_array_takes_the_place_of_the_old_one(in_memory: int, tmp_path: Path) -> None:
    with Scratch(tmp_path, in_memory) as scratch:
        for size in (10, 100, 7, 150, 90):
            for number in range(3):
                scratch[number, "x"] = np.full((size, 2), size + number, np.int16)
            for number in range(3):
                assert scratch[number, "x"].shape == (size, 2) and (scratch[number, "x"] == size + number).all()
                assert (scratch.rows((number, "x"), 2, 5) == size + number).all()


def test_memory_is_bounded_and_freed(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, 100)
    scratch[0] = np.zeros(80, np.uint8)
    scratch[1] = np.ones(80, np.uint8)
    assert list(scratch._held) == [0]
    scratch[0] = np.zeros(10, np.uint8)
    scratch[2] = np.zeros(80, np.uint8)
    assert list(scratch._held) == [0, 2] and (scratch[1] == 1).all()
    scratch.close()
    assert not scratch._held


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_compressed_rows_in_any_parts(dtype: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPRESSED_AT_ONCE", 40)
    monkeypatch.setattr(module, "IN_MEMORY", 60)
    array = np.random.default_rng(0).integers(0, 200, (30, 13)).astype(dtype)
    with CompressedRows(tmp_path) as rows:
        for first, stop in ((0, 1), (1, 12), (12, 30)):
            rows.append(array[first:stop])
        for first, stop in ((0, 30), (0, 1), (5, 17), (29, 30), (4, 4)):
            np.testing.assert_array_equal(rows[first:stop], array[first:stop])

"""Data as labelling tools write it: what each export is taken for, and the class of every pixel."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from tool_exports import EXPORTS

from terrazzo.data import find_layout, open_dataset
from terrazzo.data.check import check_dataset


@pytest.mark.parametrize("name", EXPORTS)
@pytest.mark.filterwarnings("ignore::terrazzo.notes.TerrazzoWarning")
def test_an_export_is_recognised_and_every_pixel_has_its_class(name: str, tmp_path: Path) -> None:
    made = EXPORTS[name](tmp_path)
    layout = find_layout(tmp_path)
    assert layout.name == made.layout
    assert layout.splits == tuple(made.masks)
    check = check_dataset(tmp_path)
    assert [str(error) for error in check.errors if error.code != "dataset-split"] == []
    assert [split.images for split in check.splits] == [len(masks) for masks in made.masks.values()]
    for split, masks in made.masks.items():
        dataset = pickle.loads(pickle.dumps(open_dataset(tmp_path, split)))
        assert dataset.labels.names == made.names
        assert len(dataset) == len(masks)
        for index, (stem, expected) in enumerate(sorted(masks.items())):
            image, mask = dataset.read(index)
            assert image.shape == (*expected.shape, 3), stem
            np.testing.assert_array_equal(mask, expected, err_msg=f"{split} {stem}")

"""The catalog of published weights: its numbers are those of the networks, its names those of the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from foreign_files import meta_network
from terrazzo.labels.spec import LabelSpec
from terrazzo.weights.catalog import HUB, PUBLISHED, published
from terrazzo.weights.huggingface import is_hub_id

SIZES = sorted({(row.architecture, row.labels) for row in PUBLISHED if "deit" not in row.architecture})


@pytest.mark.parametrize(("architecture", "labels"), SIZES)
def test_parameters_are_those_of_the_network(architecture: str, labels: str) -> None:
    """SETR's table counts with 19 classes for all data sets."""
    stated = {row.parameters for row in PUBLISHED if (row.architecture, row.labels) == (architecture, labels)}
    num_classes = LabelSpec.bundled(labels).num_classes if architecture.startswith("segformer") else 19
    network = meta_network(architecture, num_classes)
    network.drop_auxiliary()
    assert stated == {sum(parameter.numel() for parameter in network.parameters())}


def test_names_are_unique_and_complete() -> None:
    names = [row.name for row in PUBLISHED]
    assert len(names) == len(set(names)) == 41
    assert all(is_hub_id(row.name) == (row.where == HUB) for row in PUBLISHED)
    assert all(40 < row.mIoU < 85 or row.architecture == "segformer_b0" for row in PUBLISHED)
    assert all(row.licence and row.protocol for row in PUBLISHED)


def test_what_can_still_be_fetched_has_an_address() -> None:
    links = [row.link for row in PUBLISHED if row.link is not None]
    assert len(links) == len(set(links)) and all(link.startswith("https://") for link in links)
    setr = [row for row in PUBLISHED if row.where != HUB]
    assert len(setr) == 26 and sum(row.link is None for row in setr) == 11
    assert all(row.link is None for row in setr if "deit" in row.architecture)


def test_the_manual_says_what_is_left_of_setr() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
    for row in PUBLISHED:
        if row.where != HUB:
            (line,) = (line for line in manual.splitlines() if line.startswith(f"| {row.name.removeprefix('SETR ')} |"))
            assert f"| {row.mIoU:.2f} |" in line
            assert line.endswith("| gone |" if row.link is None else f"| [Google Drive]({row.link}) |")


def test_a_revision_is_the_same_model() -> None:
    row = published("nvidia/segformer-b5-finetuned-ade-640-640@main")
    assert row is not None and (row.architecture, row.mIoU, row.mIoU_multi) == ("segformer_b5", 51.0, 51.8)
    assert published("somebody/else") is None

"""Kept conversions are found by a version, which goes up with every change of the graphs."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("onnx")

from golden_graphs import CASES, GOLDEN, digests

from terrazzo.graphs import GRAPHS_VERSION

WHAT_TO_DO = (
    "the graphs that are written are not those of version {}: conversions that users have kept would go on being used. "
    "Raise GRAPHS_VERSION in src/terrazzo/graphs/__init__.py, and run python tests/graphs/golden_graphs.py"
)


def test_the_version_goes_up_with_every_change_of_the_graphs() -> None:
    kept, now = json.loads(GOLDEN.read_text()), digests()
    assert len(now) == len(CASES)
    differ = [
        name
        for name in kept["graphs"].keys() | now.keys()
        if kept["graphs"].get(name, {}).get("structure") != now.get(name, {}).get("structure")
        or kept["graphs"][name]["weights"] != pytest.approx(now[name]["weights"], rel=1e-4)
    ]
    assert not differ and kept["version"] == GRAPHS_VERSION, f"{WHAT_TO_DO.format(kept['version'])} ({differ})"

"""Key maps: complete against lists made by the other programs, and lossless both ways."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foreign_files import SEGFORMER, key_list, meta_network, random_model, state_in
from terrazzo.weights.recognize import shapes_of
from terrazzo.weights.remap.layout import Layout, Place
from terrazzo.weights.remap.segformer import HF4, HF5, LAYOUTS, MMSEG, NVLABS, variant_in


@pytest.mark.parametrize(
    ("file", "layout", "architecture"),
    [
        ("segformer_b0_nvlabs_150cls", NVLABS, "segformer_b0"),
        ("segformer_b5_nvlabs_150cls", NVLABS, "segformer_b5"),
        ("segformer_b0_hf4x_ondisk_150cls", HF4, "segformer_b0"),
        ("segformer_b0_hf5x_inmemory_150cls", HF5, "segformer_b0"),
        ("segformer_b0_mmseg122_150cls", MMSEG, "segformer_b0_mmseg"),
    ],
)
def test_every_key_and_shape_of_the_other_program_has_its_place(file: str, layout: Layout, architecture: str) -> None:
    theirs = key_list(file)
    assert next(some for some in LAYOUTS if some.prefixes_in(theirs)) is layout
    spec, _ = variant_in(layout, theirs)
    assert spec is not None and spec.name == architecture
    ours = shapes_of(meta_network(architecture, 150).state_dict())
    expected = {key: shape for key, shape in theirs.items() if not layout.is_dropped(key)}
    assert layout.their_shapes(ours) == expected
    assert len(theirs) - len(expected) == (2 if layout is NVLABS else 0)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_there_and_back_keeps_every_bit(layout: Layout) -> None:
    model = random_model("segformer_b0_mmseg" if "mmseg" in layout.name and not layout.encoder_only else "segformer_b0")
    state = model.state_dict()
    theirs = state_in(layout, model)
    assert {key: tuple(value.shape) for key, value in theirs.items()} == layout.their_shapes(shapes_of(state))
    back = layout.to_ours(theirs, shapes_of(state))
    assert theirs == {}, "tensors are handed over one by one"
    kept = {key: value for key, value in state.items() if not layout.encoder_only or key.startswith("encoder.")}
    assert back.keys() == kept.keys()
    assert all(torch.equal(back[key], value) and back[key].is_contiguous() for key, value in kept.items())


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_layout_is_told_by_its_marker_whatever_stands_before_it(layout: Layout) -> None:
    model = random_model("segformer_b0_mmseg" if "mmseg" in layout.name and not layout.encoder_only else "segformer_b0")
    keys = state_in(layout, model)
    found = [some for some in SEGFORMER.values() if some.prefixes_in(keys)]
    assert found[0] is layout
    assert layout.prefixes_in([f"module.model.{key}" for key in keys]) == ["module.model."]


def test_query_comes_first_in_a_packed_projection_and_key_before_value() -> None:
    state = random_model("segformer_b0_mmseg").state_dict()
    path = "encoder.stages.1.blocks.0.attn"
    q, kv = state[f"{path}.q.weight"], state[f"{path}.kv.weight"]
    packed = MMSEG.to_theirs(state)["backbone.layers.1.1.0.attn.attn.in_proj_weight"]
    assert torch.equal(packed, torch.cat([q, kv]))
    split = HF4.to_theirs(random_model().state_dict())
    kv = random_model().state_dict()[f"{path}.kv.weight"]
    key, value = (split[f"segformer.encoder.block.1.0.attention.self.{name}.weight"] for name in ("key", "value"))
    assert torch.equal(torch.cat([key, value]), kv) and key.shape == value.shape == (64, 64)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    parts=st.integers(1, 3),
    width=st.integers(1, 4),
    conv=st.booleans(),
)
def test_any_split_and_any_packing_come_back(rows: list[int], parts: int, width: int, conv: bool) -> None:
    """Several of ours in several of theirs, whatever the rows, as long as theirs are of one size."""
    rows = [rows[0] * parts] if len(rows) == 1 else rows
    parts = parts if len(rows) == 1 else 1
    place = Place(*(f"theirs.{part}" for part in range(parts)), conv=conv)
    layout = Layout("made up", "theirs.0.weight", {f"ours{number}": place for number in range(len(rows))})
    state = {f"ours{number}.weight": torch.randn(count, width) for number, count in enumerate(rows)}
    theirs = layout.to_theirs(state)
    assert len(theirs) == parts and all(value.ndim == (4 if conv else 2) for value in theirs.values())
    back = layout.to_ours(theirs, shapes_of(state))
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)


def test_what_the_other_program_lacks_is_zero() -> None:
    layout = Layout("made up", "w", {"a": Place("b"), "a.bias": Place()})
    back = layout.to_ours({"b.weight": torch.ones(2, 2)}, {"a.weight": (2, 2), "a.bias": (2,)})
    assert torch.equal(back["a.bias"], torch.zeros(2)) and torch.equal(back["a.weight"], torch.ones(2, 2))
    assert layout.to_theirs({"a.weight": torch.ones(2, 2), "a.bias": torch.ones(2)}).keys() == {"b.weight"}


def test_sizes_that_nobody_published_are_described() -> None:
    shapes = {key: tuple(value.shape) for key, value in state_in(NVLABS).items()}
    shapes["backbone.block3.2.norm1.weight"] = (160,)
    name, described = variant_in(NVLABS, shapes)
    assert name is None
    assert "(32, 64, 160, 256) channels and (2, 2, 3, 2) blocks under a decoder of width 256" in described

"""PyTorch's files, read without its reader: the same tensors as `torch.load` gives, and only those that are wanted."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from terrazzo.errors import CheckpointError
from terrazzo.weights.tensor_files import read_tensor_file

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
]  # fmt: skip


def numbers(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape).to(dtype)


def several() -> dict[str, Tensor]:
    whole = torch.arange(60.0)
    conv = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    return {
        **{str(dtype): numbers(dtype, 2, 3) for dtype in DTYPES},
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "row": whole[20:30],
        "column": whole.view(6, 10)[:, 3],
        "transposed": whole.view(6, 10).T,
        "again": whole,
        "conv": conv,
        "parameter": nn.Parameter(torch.ones(3)),
        "frozen": nn.Parameter(torch.ones(3), requires_grad=False),
        "expanded within": torch.arange(6.0).view(2, 3)[:, :1].expand(2, 3),
    }


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        value.dtype == theirs[key].dtype and torch.equal(value, theirs[key].detach()) for key, value in ours.items()
    )


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_every_tensor_is_that_of_torch_load(tmp_path: Path, older: bool, protocol: int) -> None:
    path = tmp_path / "x.pth"
    state = several()
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not older)
    ours = read_tensor_file(path).tensors
    assert same(ours, state) and not any(value.requires_grad for value in ours.values())
    if protocol == 2:
        assert same(ours, torch.load(path, weights_only=True))
    assert ours["row"].untyped_storage().nbytes() == 40  # of its own, not the whole that it was cut from


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    dtype=st.sampled_from(DTYPES),
    order=st.randoms(use_true_random=False),
    older=st.booleans(),
)
def test_any_shape_and_order_of_axes(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], dtype: torch.dtype, order: object, older: bool
) -> None:
    axes = list(range(len(shape)))
    order.shuffle(axes)  # type: ignore[attr-defined]
    tensor = numbers(dtype, *shape).permute(axes)
    path = tmp_path_factory.getbasetemp() / "x.pth"
    torch.save({"a": tensor, "b": tensor[..., :2] if shape else tensor}, path, _use_new_zipfile_serialization=not older)
    assert same(read_tensor_file(path).tensors, torch.load(path, weights_only=True))


def test_a_subclass_of_tensor_is_a_tensor(tmp_path: Path) -> None:
    class Mine(Tensor):
        pass

    globals()["Mine"] = Mine
    Mine.__qualname__ = "Mine"
    torch.save({"a": torch.ones(3).as_subclass(Mine)}, tmp_path / "x.pth")
    tensors = read_tensor_file(tmp_path / "x.pth").tensors
    assert type(tensors["a"]) is Tensor and torch.equal(tensors["a"], torch.ones(3))


def test_numbers_that_were_written_the_other_way_round(tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0), "b": torch.arange(3).bool()}
    torch.save(state, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "y.pth", "w") as archive:
        for name, data in parts.items():
            if name.endswith("byteorder"):
                data = b"big"
            if name.endswith("data/0"):
                data = b"".join(data[k : k + 4][::-1] for k in range(0, len(data), 4))
            archive.writestr(name, data)
    assert same(read_tensor_file(tmp_path / "y.pth").tensors, state)


def test_what_is_not_wanted_is_not_read(tmp_path: Path) -> None:
    """The optimiser's state may even be damaged."""
    path = tmp_path / "x.pth"
    unwanted = torch.full((1000,), 7.0)
    torch.save({"model": {"a": torch.ones(3)}, "optimizer": {"state": {0: {"exp_avg": unwanted}}}}, path)
    data = bytearray(path.read_bytes())
    place = data.index(unwanted.numpy().tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert torch.equal(read_tensor_file(path).tensors["a"], torch.ones(3))


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (torch.complex(torch.ones(2), torch.ones(2)), "type"),
        (torch.ones(3).to_sparse(), "sparse"),
        (torch.complex(torch.ones(2), torch.ones(2)).conj().imag, "conjugate"),  # the file has its numbers negated
        (torch.empty(3, device="meta"), "meta"),
    ],
)
def test_what_is_no_plain_tensor_is_named(tmp_path: Path, tensor: Tensor, why: str) -> None:
    torch.save({"fine": torch.ones(1), "odd": tensor}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=f"odd.*{why}") as caught:
        read_tensor_file(tmp_path / "x.pth")
    assert caught.value.code == "checkpoint-not-dense"


def test_a_pickle_of_something_else(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"weights": [1.0, 2.0]}))
    with pytest.raises(CheckpointError, match=r"a pickle that torch\.save has not written") as caught:
        read_tensor_file(tmp_path / "x.pkl")
    assert caught.value.code == "checkpoint-pickle"

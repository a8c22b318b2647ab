"""FAULTS.md, checkpoints: what is broken or hostile is refused with its name, and nothing in it is run."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from foreign_files import NAMES, state_in
from terrazzo.errors import CheckpointError, TerrazzoError
from terrazzo.weights import torch_files
from terrazzo.weights.load import load
from terrazzo.weights.remap.segformer import HF4
from terrazzo.weights.tensor_files import read_tensor_file


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert path.name in caught.value.message and caught.value.fix
    return caught.value


def safetensors_file(path: Path, header: object, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_more_tensors_than_any_network_has(tmp_path: Path) -> None:
    header = {f"loss_val_iou_{k}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for k in range(10_001)}
    error = refusal(safetensors_file(tmp_path / "x.safetensors", header))
    assert error.code == "checkpoint-unknown" and "holds 10,001 tensors, more than any network" in error.message


# -- row 38 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_row_38_a_pickle_bomb_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    path, marker = tmp_path / "bomb.pth", tmp_path / "ran"
    content = {"state_dict": {"a": torch.ones(2), "b": Bomb(marker)}}
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(marker)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    error = refusal(path)
    assert error.code == "checkpoint-pickle" and not marker.exists()
    if form != "pickle":
        assert "posix.mkdir" in error.message


# -- row 39 -----------------------------------------------------------------------------------------------------------


def entry(start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": entry(0, 16)}, b"\0" * 12),
        ({"a": entry(0, 16)}, b"\0" * 20),
        ({"a": entry(0, 16), "b": entry(8, 24)}, b"\0" * 24),
        ({"a": entry(0, 8), "b": entry(16, 24)}, b"\0" * 24),
        ({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}, b"\0" * 16),
        ({"a": {"dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16]}}, b"\0" * 16),
    ],
    ids=["truncated", "trailing", "overlapping", "gap", "wrong size", "unknown type"],
)
def test_row_39_broken_safetensors(tmp_path: Path, header: object, data: bytes) -> None:
    assert refusal(safetensors_file(tmp_path / "x.safetensors", header, data)).code == "checkpoint-damaged"


def test_row_39_a_truncated_pth(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for legacy in (False, True):
        torch.save(state_in(HF4), path, _use_new_zipfile_serialization=not legacy)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert refusal(path).code == "checkpoint-damaged"
    path.write_bytes(b"")
    assert refusal(path).code == "checkpoint-damaged"


# -- row 40 -----------------------------------------------------------------------------------------------------------


def test_row_40_a_flipped_bit_in_a_pth(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(state_in(HF4), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert refusal(path).code == "checkpoint-checksum"


# -- row 45 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(3, 3).to_sparse(),
        torch.empty(2, 2, device="meta"),
        torch.ones(1).expand(10**6, 10**6),
    ],
    ids=["sparse", "meta", "expanded"],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_row_45_tensors_whose_numbers_are_not_all_there(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"fine": torch.ones(2), "odd": tensor}, tmp_path / "x.pth")
    error = refusal(tmp_path / "x.pth")
    assert error.code == "checkpoint-not-dense" and "odd" in error.message


def test_row_45_a_declared_size_far_above_the_file(tmp_path: Path) -> None:
    huge = {"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    assert refusal(safetensors_file(tmp_path / "x.safetensors", huge)).code == "checkpoint-damaged"
    (tmp_path / "y.safetensors").write_bytes(struct.pack("<Q", 10**15) + b'{"a":')
    assert refusal(tmp_path / "y.safetensors").code == "checkpoint-damaged"


def test_row_45_many_views_of_one_storage(tmp_path: Path) -> None:
    one = torch.zeros(1 << 20)
    torch.save({str(number): one for number in range(100)}, tmp_path / "x.pth")
    error = refusal(tmp_path / "x.pth")
    assert error.code == "checkpoint-damaged" and "claim" in error.message


def test_row_45_a_storage_that_says_more_than_its_record_holds(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(1000, dtype=torch.float32)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "y.pth", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data[:40] if name.endswith("data/0") else data)
    assert "has 40 bytes, which is not its size" in refusal(tmp_path / "y.pth").message


def test_row_45_a_list_of_tensors_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pth")
    monkeypatch.setattr(torch_files, "MAX_BYTES", 100)
    assert "its list of tensors has" in refusal(tmp_path / "x.pth").message


def test_row_45_compressed_archives_are_not_unpacked(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    assert "is compressed, which PyTorch never does" in refusal(tmp_path / "y.pth").message


# -- row 46 -----------------------------------------------------------------------------------------------------------


def tar_of(name: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def zip_of(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "hello")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"\n  <html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a Git LFS pointer"),
        (gzip.compress(b"hello"), "a compressed archive"),
        (tar_of("model.pth"), "a tar archive"),
        (zip_of("model.pth"), "a zip archive"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x89PNG\r\n", "a picture"),
        (b"hello", "neither a safetensors nor a PyTorch file"),
    ],
    # Archives carry the time they were made at: named by it, no two processes would see the same tests.
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_row_46_what_is_no_checkpoint_is_called_what_it_is(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    error = refusal(path)
    assert error.code == "checkpoint-not-weights" and says in error.message


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_row_46_a_torchscript_program(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "x.pt")  # type: ignore[no-untyped-call]
    assert "TorchScript" in refusal(tmp_path / "x.pt").message


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, [1, 2], {"state_dict": {"a": 3}}, {"a": torch.ones(1), "b": "x"}]
)
def test_row_46_a_file_without_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pth")
    assert refusal(tmp_path / "x.pth").code in ("checkpoint-empty", "checkpoint-not-tensor")


def test_row_46_neither_file_nor_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "neither file nor folder" in refusal(tmp_path / "pipe").message


# -- row 47 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"id2label": {str(k): "x" for k in range(100_000)}},
        {"id2label": {"0": "a", "1": "b", "2": "c", "3": "d", "1000000000": "e"}},
        {"id2label": {str(k): f"\x1b[31m{k}" for k in range(5)}},
        {"id2label": {str(k): {"deep": k} for k in range(5)}},
        {"id2label": {str(k): f"{k}" * 10_000 for k in range(5)}},
        {"id2label": "abcde"},
        {"id2label": 10**9},
        {"depths": [10**9] * 4, "num_attention_heads": 10**9},
        {"terrazzo": {"labels": {"names": ["a"]}, "preprocess": {}, "record": {}}},
        {"terrazzo": {"labels": {"names": NAMES}, "preprocess": {"short_side": 10**9}, "record": {}}},
        {"terrazzo": {"labels": {"names": NAMES}, "preprocess": {}, "record": 3}},
    ],
)
def test_row_47_a_hostile_configuration_is_bounded(tmp_path: Path, change: dict[str, Any]) -> None:
    save_file(state_in(HF4), tmp_path / "model.safetensors")
    document = {"model_type": "segformer", "id2label": {str(k): n for k, n in enumerate(NAMES)}, **change}
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert len(str(caught.value)) < 1000 and "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("[" * 100_000, "nested deeper than 64 levels"),
        ('{"model_type": ' * 5000, "nested deeper than 64 levels"),
        ("{", "not valid JSON"),
        ("\udc80", "is not text"),
        ('{"model_type": 1e999}', "larger than any"),
    ],
)
def test_row_47_a_configuration_that_is_hard_to_parse(tmp_path: Path, text: str, problem: str) -> None:
    save_file(state_in(HF4), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text, errors="surrogateescape")
    with pytest.raises(CheckpointError, match=problem):
        load(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"size": [10**9, 2]},
        {"size": "x"},
        {"size": {"depth": 3}},
        {"size": -5},
        {"image_mean": [1]},
        {"image_std": [0, 0, 0]},
        {"image_mean": "abc"},
        {"rescale_factor": 0},
        {"image_std": ["inf", 1, 1]},
        {"image_scale": [1, "a"], "keep_ratio": 1},
    ],
)
def test_row_47_a_hostile_processor(tmp_path: Path, values: dict[str, Any]) -> None:
    save_file(state_in(HF4), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "segformer"}')
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert caught.value.code == "checkpoint-preprocess"


def test_row_47_markup_in_a_name_is_only_a_name(tmp_path: Path) -> None:
    save_file(state_in(HF4), tmp_path / "model.safetensors")
    names = {"0": "<script>", "1": "[red]", "2": "a\\b", "3": "{x}", "4": "%s"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "segformer", "id2label": names}))
    assert load(tmp_path).labels.names == tuple(names.values())


# -- any damage -------------------------------------------------------------------------------------------------------


def small_files() -> dict[str, bytes]:
    state = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(3)}
    files = {"safetensors": save(state)}
    for legacy in (False, True):
        file = io.BytesIO()
        torch.save(
            {"state_dict": state, "meta": {"CLASSES": ("a", "b")}}, file, _use_new_zipfile_serialization=not legacy
        )
        files["legacy" if legacy else "zip"] = file.getvalue()
    return files


SMALL = small_files()


@settings(max_examples=50, deadline=None)
@given(
    form=st.sampled_from(sorted(SMALL)),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    keep=st.one_of(st.none(), st.integers(0, 3000)),
)
@pytest.mark.filterwarnings("ignore")
def test_any_damage_is_a_checkpoint_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, form: str, changes: list[tuple[int, int]], keep: int | None
) -> None:
    data = bytearray(SMALL[form][:keep])
    for place, value in changes:
        if data:
            data[place % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data)
    try:
        tensors = read_tensor_file(path).tensors
    except TerrazzoError as error:
        assert isinstance(error, CheckpointError) and len(error.message) < 1000
    else:
        assert sum(value.numel() for value in tensors.values()) < 10_000

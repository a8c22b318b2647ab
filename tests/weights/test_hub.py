"""Models of the Hugging Face hub, from a cache made by hand: no test touches the network."""

from __future__ import annotations

import hashlib
import json
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors
from safetensors.torch import save_file

from foreign_files import NAMES, random_model, state_in
from terrazzo.errors import CheckpointError
from terrazzo.weights.catalog import is_cached
from terrazzo.weights.hub import download
from terrazzo.weights.huggingface import is_hub_id
from terrazzo.weights.load import load
from terrazzo.weights.remap.segformer import HF4

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no way to the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def put_into(cache: Path, name: str, weights: str = "model.safetensors") -> Path:
    """Lay a model down as huggingface_hub does: large files under their checksums, linked from the snapshot."""
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    for part in (folder / "refs", folder / "blobs", snapshot):
        part.mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    names = {str(k): text for k, text in enumerate(NAMES)}
    (snapshot / "config.json").write_text(json.dumps({"model_type": "segformer", "id2label": names}))
    if weights.endswith(".safetensors"):
        save_file(state_in(HF4), folder / "blobs" / "new")
    else:
        torch.save(state_in(HF4), folder / "blobs" / "new")
    blob = folder / "blobs" / hashlib.sha256((folder / "blobs" / "new").read_bytes()).hexdigest()
    (folder / "blobs" / "new").rename(blob)
    (snapshot / weights).symlink_to(blob)
    return blob


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_cached_model_loads_without_the_network(cache: Path, weights: str) -> None:
    put_into(cache, "somebody/segformer", weights)
    model = load("somebody/segformer")
    assert model.name == model.record["origin"] == "somebody/segformer"
    assert model.labels.names == tuple(NAMES)
    expected = random_model().state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.network.state_dict().items())


def test_offline_and_not_cached_names_the_cache(cache: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load("somebody/nothing")
    assert caught.value.code == "hub-offline" and str(cache) in caught.value.message


def test_row_40_a_flipped_bit_in_the_cache_is_a_checksum_mismatch(cache: Path) -> None:
    blob = put_into(cache, "somebody/segformer")
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load("somebody/segformer")
    assert caught.value.code == "checkpoint-checksum" and str(blob) in caught.value.fix


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (errors.RepositoryNotFoundError, "hub-missing"),
        (errors.RevisionNotFoundError, "hub-missing"),
        (errors.GatedRepoError, "hub-gated"),
        (errors.HfHubHTTPError, "hub-failed"),
        (ConnectionResetError, "hub-failed"),
    ],
)
def test_what_the_hub_may_answer(
    cache: Path, monkeypatch: pytest.MonkeyPatch, raised: type[Exception], code: str
) -> None:
    def answer(*_: object, **__: object) -> str:
        raise raised.__new__(raised, "no")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    with pytest.raises(CheckpointError) as caught:
        load("somebody/segformer@main")
    assert caught.value.code == code and "somebody/segformer@main" in caught.value.message


def test_a_path_comes_before_the_hub(cache: Path) -> None:
    Path("somebody/segformer").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="holds no model"):
        load("somebody/segformer")


@pytest.mark.parametrize(
    ("text", "is_id"),
    [
        ("nvidia/segformer-b0-finetuned-ade-512-512", True),
        ("a/b@refs/pr/1", True),
        ("segformer_b0.camvid", False),
        ("/etc/passwd", False),
        ("../a/b", False),
        ("a/b/c", False),
        ("a b/c", False),
        ("https://x/y", False),
        ("a/b\n", False),
    ],
)
def test_what_can_be_a_hub_id(text: str, is_id: bool) -> None:
    assert is_hub_id(text) is is_id


def test_the_catalog_sees_the_cache(cache: Path) -> None:
    name = "nvidia/segformer-b0-finetuned-ade-512-512"
    assert not is_cached(name)
    put_into(cache, name)
    assert is_cached(name)
    assert load(name).record["licence"].startswith("NVIDIA Source Code License")


@pytest.mark.parametrize("name", ["LICENSE", "LICENSE.md", "LICENCE.txt", "README.md"])
def test_the_terms_are_fetched_with_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "model.safetensors").touch()
    asked: list[str] = []

    def fetch(_: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    download("somebody/segformer")
    assert any(fnmatch(name, pattern) for pattern in asked)

"""Checkpoints whose classifier has one row, a sigmoid: background and an object here, and one label again there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import terrazzo
from tables import with_rows
from terrazzo.models import ModelSpec, segformer, setr
from terrazzo.weights.create import create_model
from terrazzo.weights.files import load_folder, save_folder
from terrazzo.weights.huggingface import save_huggingface
from terrazzo.weights.remap import segformer as segformer_names
from terrazzo.weights.remap import setr as setr_names
from terrazzo.weights.remap.layout import Layout

MIT = {"embed_dims": (8, 16, 20, 32), "depths": (1, 1, 1, 1)}
VIT = {"embed_dim": 16, "depth": 4, "num_heads": 2}
CASES: dict[str, tuple[ModelSpec, Layout]] = {
    "NVlabs": (segformer.segformer_spec("segformer_one", MIT, 8), segformer_names.NVLABS),
    "smp": (segformer.segformer_spec("segformer_one", MIT, 8), segformer_names.SMP),
    "mmsegmentation": (segformer.segformer_spec("segformer_one_mmseg", MIT, 8, mmseg=True), segformer_names.MMSEG),
    "SETR-MLA": (setr.setr_spec("setr_mla_one", VIT, "mla", (1, 2, 3, 4), (1, 2, 3, 4)), setr_names.MLA),
    "SETR-PUP": (setr.setr_spec("setr_pup_one", VIT, "pup", (1, 2, 3, 4), (1, 2, 3, 4)), setr_names.PUP),
}
IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_file_of_one_label(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, layout = CASES[name]
    table = segformer.VARIANTS if spec.encoder.name == "mit" else setr.VARIANTS
    with_rows(monkeypatch, table, {str(spec.name): spec})
    torch.manual_seed(0)
    network = create_model(spec, 2, image_size=(64, 64)).eval()
    for key, value in network.state_dict().items():
        if ".classifier." in key:
            value.normal_()
            value[0] = 0
    state = layout.to_theirs(network.state_dict())
    rows = {piece.theirs[0] for piece in layout.pieces({k: tuple(v.shape) for k, v in network.state_dict().items()})
            if ".classifier." in piece.ours[0]}  # fmt: skip
    torch.save({key: value[1:].clone() if key in rows else value for key, value in state.items()}, tmp_path / "x.pth")

    warned = pytest.warns(terrazzo.TerrazzoWarning) if layout.remark else monkeypatch.context()
    with warned:
        model = terrazzo.load(tmp_path / "x.pth")
    assert model.labels.names == ("background", "object")
    assert model.record["one label"] is True
    logits, expected = model.network(IMAGES), network(IMAGES)
    assert torch.equal(logits, expected)
    torch.testing.assert_close(logits.softmax(1)[:, 1], expected[:, 1].sigmoid())
    assert torch.equal(logits.argmax(1) == 1, expected[:, 1] > 0)
    assert all(float(head.abs().max()) == 0 for head in [x[:, 0] for x in model.network(IMAGES, auxiliary=True)])

    save_folder(tmp_path / "saved", model)
    assert load_folder(tmp_path / "saved").spec.num_classes == 2
    if name in ("NVlabs", "smp"):
        save_huggingface(tmp_path / "hf", model)
        back = terrazzo.load(tmp_path / "hf")
        assert back.labels.names == ("background", "object")
        assert torch.equal(back.network(IMAGES)[:, 1], expected[:, 1])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"0": "crack"}, ("background", "crack")),
        ({"0": "background"}, ("background", "object")),
        ({"0": ""}, ("background", "object")),
        ({"0": "sky", "1": "road"}, ("sky", "road")),
    ],
    ids=str,
)
def test_names(names: dict[str, str], expected: tuple[str, ...], tmp_path: Path) -> None:
    import json

    labels = terrazzo.LabelSpec.from_names(["background", "object"])
    network = create_model("segformer_b0", 2)
    for parameter in (network.decoder.classifier.weight, network.decoder.classifier.bias):
        parameter.data[0] = 0
    model = terrazzo.TrainedModel("segformer_b0", network.eval(), labels, terrazzo.Preprocess(), {"one label": True})
    save_huggingface(tmp_path, model)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["id2label"] == {"0": "object"}
    del config["terrazzo"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": names}))
    assert terrazzo.load(tmp_path).labels.names == expected

"""Decoders and encoders without a hand-written graph as files: traced, at any size, and compared like all others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import terrazzo
from terrazzo.graphs.onnx import has_written_graph, minimum_side
from terrazzo.labels.spec import LabelSpec
from terrazzo.models import ModelSpec, Part, Segmenter, build
from terrazzo.models.layers import ceil_div, first_cells
from terrazzo.preprocess import Preprocess
from terrazzo.weights.files import TrainedModel

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

TINY = {
    "mit": Part("mit", {"embed_dims": (8, 16, 20, 32), "depths": (1, 1, 1, 1)}),
    "pvt": Part("pvt", {"embed_dims": (8, 16, 20, 32), "depths": (1, 1, 1, 1)}),
    "vit": Part("vit", {"embed_dim": 16, "depth": 4, "num_heads": 2}),
}
PAIRS = [
    ("mit", "fcn_8s"),
    ("vit", "fcn_16s"),
    ("vit", "fcn_attention"),
    ("mit", "psp"),
    ("mit", "aspp"),
    ("mit", "upernet"),
    ("mit", "fpn"),
    ("pvt", "all_mlp"),
]


def network_of(encoder: str, decoder: str) -> Segmenter:
    torch.manual_seed(0)
    return build(ModelSpec(TINY[encoder], Part(decoder, {"embed_dim": 16}), 3, image_size=(64, 96))).eval()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize(("encoder", "decoder"), PAIRS, ids="+".join)
def test_the_file_computes_what_the_model_does(encoder: str, decoder: str, suffix: str, tmp_path: Path) -> None:
    """33 x 47 among the sizes: no multiple of any stride."""
    network = network_of(encoder, decoder)
    if decoder == "fcn_attention":
        torch.nn.init.constant_(network.decoder.attention.gain, 0.7)  # type: ignore[union-attr, arg-type]
    model = TrainedModel(decoder, network, LabelSpec.from_names(["a", "b", "c"]), Preprocess())
    written = terrazzo.export(model, tmp_path / f"model{suffix}")
    assert written.path.is_file() and written.parity.passed


def test_what_is_traced_and_from_which_side_on() -> None:
    assert has_written_graph(network_of("mit", "all_mlp")) and has_written_graph(network_of("vit", "setr_naive"))
    assert not any(has_written_graph(network_of(encoder, decoder)) for encoder, decoder in PAIRS)
    assert [minimum_side(network_of(encoder, "fcn")) for encoder in TINY] == [29, 29, 1]
    last_two = ModelSpec(Part("mit", {**TINY["mit"].fields, "emitted": (3, 4)}), Part("fcn"), 3)
    assert minimum_side(build(last_two)) == 29


@pytest.mark.filterwarnings("ignore")
def test_division_that_rounds_up_does_so_in_onnx(tmp_path: Path) -> None:
    """The division of ONNX rounds negative quotients towards zero."""

    class Cut(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return first_cells(x, ceil_div(x.shape[2], 4), ceil_div(x.shape[3], 8))

    free = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        Cut().eval(),
        (torch.zeros(2, 1, 9, 17),),
        dynamo=True,
        dynamic_shapes=({0: free, 2: free, 3: free},),
        verbose=False,
    )
    assert program is not None
    program.save(tmp_path / "cut.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "cut.onnx", providers=["CPUExecutionProvider"])
    for height, width in [(33, 47), (32, 48), (7, 9)]:
        (cut,) = session.run(None, {session.get_inputs()[0].name: np.zeros((1, 1, height, width), np.float32)})
        assert cut.shape == (1, 1, -(-height // 4), -(-width // 8))

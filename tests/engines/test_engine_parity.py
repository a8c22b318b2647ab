"""Every engine gives every kind of network's numbers, and the same masks, at any size and batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_files import LABELS, noise
from torch import nn

from terrazzo.engines.engine import Engine, EngineOptions
from terrazzo.engines.onnxruntime import OnnxRuntimeEngine
from terrazzo.engines.openvino import OpenVINOEngine
from terrazzo.engines.torch import TorchEngine
from terrazzo.graphs.onnx import write_onnx
from terrazzo.inference.upsample.argmax import upsample_argmax
from terrazzo.models import Segmenter
from terrazzo.models.decoders.all_mlp import AllMLPDecoder
from terrazzo.models.decoders.mla import MLADecoder
from terrazzo.models.decoders.naive import NaiveDecoder
from terrazzo.models.decoders.pup import PUPDecoder
from terrazzo.models.encoders.mit import MixTransformer
from terrazzo.models.encoders.vit import VisionTransformer
from terrazzo.preprocess import Preprocess
from terrazzo.weights.files import TrainedModel

SIZES = [(1, 64, 64), (1, 33, 65), (3, 47, 96), (3, 80, 31), (1, 129, 50)]
K = LABELS.num_classes


def mit() -> MixTransformer:
    return MixTransformer((8, 16, 24, 32), (1, 1, 1, 1), (1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2), drop_path_rate=0.0)


def vit(*layers: int) -> VisionTransformer:
    return VisionTransformer(16, 2, 2, 2, 16, (64, 48), layers, True, 0.0)


NETWORKS: dict[str, Callable[[], Segmenter]] = {
    "segformer": lambda: Segmenter(mit(), AllMLPDecoder((8, 16, 24, 32), (4, 8, 16, 32), K, embed_dim=16)),
    "setr_naive": lambda: Segmenter(vit(2), NaiveDecoder((16,), (16,), K, embed_dim=8)),
    "setr_pup": lambda: Segmenter(vit(2), PUPDecoder((16,), (16,), K, embed_dim=8)),
    "setr_mla": lambda: Segmenter(vit(1, 2), MLADecoder((16, 16), (16, 16), K, embed_dim=8, stream_dim=4)),
}


def scrambled(network: Segmenter) -> Segmenter:
    """None of the norms is the identity, so that a forgotten one shows."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=0.3)
    return network.eval()


@pytest.fixture(scope="module", params=NETWORKS)
def network_and_engines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Segmenter, dict[str, Engine]]:
    torch.manual_seed(0)
    network = scrambled(NETWORKS[request.param]())
    path: Path = tmp_path_factory.mktemp("exported") / "model.onnx"
    trained = TrainedModel(request.param, network, LABELS, Preprocess())
    write_onnx(trained, path)
    write_onnx(trained, for_openvino := path.with_name("for-openvino.onnx"), target="openvino")
    write_onnx(trained, for_onnxruntime := path.with_name("for-onnxruntime.onnx"), target="onnxruntime")
    return network, {
        "torch": TorchEngine(network),
        "torch in streams": TorchEngine(network, options=EngineOptions(threads=2, streams=2)),
        "onnxruntime": OnnxRuntimeEngine(for_onnxruntime),
        "onnxruntime, the graph for any runtime": OnnxRuntimeEngine(path),
        "openvino, the graph for ONNX Runtime": OpenVINOEngine(for_onnxruntime),
        "openvino": OpenVINOEngine(for_openvino),
        "openvino, the graph for any runtime": OpenVINOEngine(path),
        "onnxruntime, the graph for OpenVINO": OnnxRuntimeEngine(for_openvino),
        "openvino in streams": OpenVINOEngine(for_openvino, EngineOptions(threads=2, streams=2)),
    }


@pytest.mark.parametrize("size", SIZES)
def test_every_engine_gives_the_networks_numbers(
    network_and_engines: tuple[Segmenter, dict[str, Engine]], size: tuple[int, int, int]
) -> None:
    network, engines = network_and_engines
    images = noise(*size)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    tolerance = 1e-4 * max(float(np.abs(expected).max()), 1.0)  # as an export's own parity check has it
    for name, engine in engines.items():
        logits = engine(images)
        assert logits.dtype == np.float32, name
        np.testing.assert_allclose(logits, expected, atol=tolerance, rtol=0, err_msg=name)
        for mine_Khw, theirs_Khw in zip(logits, expected, strict=True):
            differs = upsample_argmax(mine_Khw, [size[1:]]) != upsample_argmax(theirs_Khw, [size[1:]])
            assert differs.mean() < 1e-3, name  # exact ties, of which random noise has hardly any


def test_a_wider_batch_is_each_image_by_itself(network_and_engines: tuple[Segmenter, dict[str, Engine]]) -> None:
    images = noise(3, 40, 72)
    for name, engine in network_and_engines[1].items():
        alone = np.concatenate([engine(images[n : n + 1]) for n in range(3)])
        np.testing.assert_allclose(engine(images), alone, atol=2e-4, err_msg=name)

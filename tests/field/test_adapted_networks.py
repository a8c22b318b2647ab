"""Networks whose layers somebody has changed after they were built: engines run what is there, not what was built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from terrazzo.engines.conversion_cache import convert_once
from terrazzo.engines.engine import ENGINES
from terrazzo.engines.fused_segformer import can_fuse
from terrazzo.engines.torch import TorchEngine
from terrazzo.errors import CheckpointError
from terrazzo.graphs.onnx import has_written_graph
from terrazzo.models.segmenter import Segmenter
from tiny_models import tiny_model


class Adapted(nn.Linear):
    """A linear layer beside another path, as LoRA has it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.mean(-1, keepdim=True)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def _adapter(network: Segmenter) -> None:
    network.encoder.stages[0].blocks[0].attn.q.__class__ = Adapted  # type: ignore[union-attr, index]


def _hook(network: Segmenter) -> None:
    network.decoder.classifier.register_forward_hook(lambda _module, _inputs, output: 2 * output)  # type: ignore[union-attr]


def _hook_before(network: Segmenter) -> None:
    network.decoder.classifier.register_forward_pre_hook(lambda _module, inputs: (2 * inputs[0],))  # type: ignore[union-attr]


def _own_forward(network: Segmenter) -> None:
    norm = network.encoder.stages[0].norm  # type: ignore[union-attr, index]
    norm.forward = lambda x: 2 * x


def _parametrized(network: Segmenter) -> None:
    parametrize.register_parametrization(network.decoder.classifier, "weight", Doubled())  # type: ignore[arg-type]


CHANGES = [_adapter, _hook, _hook_before, _own_forward, _parametrized]


@pytest.mark.parametrize("change", CHANGES)
def test_the_engine_gives_the_changed_networks_logits(change: Callable[[Segmenter], None]) -> None:
    network = tiny_model("segformer_b0").network
    images = np.random.default_rng(0).standard_normal((1, 3, 65, 90), dtype=np.float32)
    assert can_fuse(network) and has_written_graph(network)
    before = TorchEngine(network)(images)
    change(network)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    assert np.abs(expected - before).max() > 1e-5  # which the change has changed
    np.testing.assert_allclose(TorchEngine(network)(images), expected, atol=1e-6)
    assert not can_fuse(network) and not has_written_graph(network)


def test_a_conversion_from_before_a_hook_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path))
    model, ort = tiny_model("segformer_b0"), ENGINES["onnxruntime"]
    kept = convert_once(model, model, ort)
    assert convert_once(model, model, ort) == kept
    _hook(model.network)
    with pytest.raises(CheckpointError) as caught:
        convert_once(model, model, ort)
    assert caught.value.code == "conversion-parity"

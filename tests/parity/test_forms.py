"""What is computed in several forms gives the same in each; CONTRIBUTING.md has them in one table, which this reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.engines.fused_segformer import FusedSegFormer
from terrazzo.inference.upsample.argmax import upsample_argmax
from terrazzo.interpret.attention import attention_rows
from terrazzo.models.encoders.mit import EfficientSelfAttention
from terrazzo.models.normed_classifier import classify_normed
from terrazzo.models.resized_conv import conv_of_resized
from terrazzo.training.losses.cross_entropy import upsampled_cross_entropy
from tiny_models import ARCHITECTURES, tiny_model

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"
SIZE = (72, 105)

Pair = tuple[Tensor, Tensor]


def segformer_fused() -> Pair:
    network, images = tiny_model("segformer_b0").network, torch.randn(2, 3, *SIZE)
    with torch.inference_mode():
        return network(images), FusedSegFormer(network)(images)


def graph(architecture: str, folder: Path) -> Pair:
    from terrazzo.engines.onnxruntime import OnnxRuntimeEngine
    from terrazzo.graphs.onnx import write_onnx

    model, images = tiny_model(architecture), torch.randn(2, 3, *SIZE)
    write_onnx(model, folder / "model.onnx")
    run = OnnxRuntimeEngine(folder / "model.onnx")
    with torch.inference_mode():
        return model.network(images), torch.from_numpy(run(images.numpy()))


def attention() -> Pair:
    module = EfficientSelfAttention(24, 3, 2).eval()
    x_BHWC = torch.randn(1, 6, 8, 24)
    with torch.no_grad():
        rows_TNM = attention_rows(module, x_BHWC, torch.arange(48))
        values_MC = module.kv(module.sr(x_BHWC)).reshape(-1, 48)[:, 24:]
        mixed_TNc = torch.einsum("tnm,mnc->tnc", rows_TNM, values_MC.view(-1, 3, 8))
        return module(x_BHWC), module.proj(mixed_TNc.reshape(1, 6, 8, 24))


def resized_argmax() -> Pair:
    logits = torch.randn(5, 9, 12)
    resized = F.interpolate(logits[None], (37, 50), mode="bilinear", align_corners=False)
    return resized[0].argmax(0), torch.from_numpy(upsample_argmax(logits.numpy(), [(37, 50)]).astype(np.int64))


def conv_of_enlarged() -> Pair:
    x, conv = torch.randn(2, 6, 9, 11), nn.Conv2d(6, 4, 3, padding=1)
    larger = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return conv(larger), conv_of_resized(x, conv.weight, conv.bias, 2, align_corners=False)


def classifier_in_training() -> Pair:
    x, norm, classifier = torch.randn(2, 6, 5, 7), nn.BatchNorm2d(6), nn.Linear(6, 3)
    x = x.contiguous(memory_format=torch.channels_last)
    plain = classifier(F.relu(norm(x)).permute(0, 2, 3, 1)).flatten(1, 2)
    return plain, classify_normed(x, norm, classifier.weight.T.expand(2, 6, 3), classifier.bias)


def loss_in_strips() -> Pair:
    logits, labels = torch.randn(2, 5, 9, 11), torch.randint(0, 5, (2, 36, 44))
    plain = F.cross_entropy(F.interpolate(logits, (36, 44), mode="bilinear", align_corners=False), labels)
    return plain, upsampled_cross_entropy(logits, labels, ignore_index=255)


FORMS: dict[str, Callable[[], Pair]] = {
    "engines/fused_segformer.py": segformer_fused,
    "interpret/attention.py": attention,
    "inference/upsample/argmax.py": resized_argmax,
    "models/resized_conv.py": conv_of_enlarged,
    "models/normed_classifier.py": classifier_in_training,
    "training/losses/strips.py": loss_in_strips,
}
GRAPHS = ("graphs/encoders.py", "graphs/decoders.py")


@pytest.mark.parametrize("form", FORMS)
def test_a_form_gives_what_the_definition_gives(form: str) -> None:
    torch.manual_seed(0)
    first, other = FORMS[form]()
    torch.testing.assert_close(other, first, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_graph_gives_what_the_network_gives(architecture: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    first, other = graph(architecture, tmp_path)
    torch.testing.assert_close(other, first, atol=1e-4, rtol=1e-4)


def test_the_table_has_every_form() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    table = text[text.index("| computation | defined in | also in, for speed |") :].split("\n\n")[0]
    last_cells = [line.split("|")[3] for line in table.splitlines()[2:]]
    named = {name for cell in last_cells for name in re.findall(r"`([\w/]+\.py)`", cell)}
    assert named == {*FORMS, *GRAPHS}

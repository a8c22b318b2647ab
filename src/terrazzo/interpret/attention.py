"""Attention maps: how a token divides its attention over the image, in SegFormer's and in SETR's encoder.

The networks use `scaled_dot_product_attention`, which does not return its weights. So a forward hook on each chosen
layer computes, from the layer's input and projections, the softmax rows of the tokens under some points. Only those
rows are computed: P x heads x keys numbers for P points, never the full matrix.

A SegFormer's keys are a reduced grid of R x R tokens each (arXiv 2105.15203, section 3.1). Rows and columns of tokens
that do not fill a window belong to no key and get no attention: `LayerAttention.covered` says how far the keys reach.
A SETR's keys are the patches and, but for SETR-MLA, the class token. PVT's stages are like a SegFormer's, the
transformer of SETR's hybrid like a SETR's. A decoder with an attention block (models/decoders/attention.py) has one
more layer, on any encoder.

Shapes: P points, N heads, M keys, h and w the grid of keys, C channels, T tokens.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from terrazzo.arguments import checked
from terrazzo.engines.modes import keeps_mode
from terrazzo.engines.torch import find_device
from terrazzo.errors import ConfigError
from terrazzo.imaging.read import ImageSource, ReadOptions
from terrazzo.inference.upsample.argmax import upsample_argmax
from terrazzo.interpret.figures import attention_png, heads_png
from terrazzo.interpret.measures import area_holding, percent
from terrazzo.interpret.points import Point, check_points, choose_points
from terrazzo.interpret.records import LayerAttention
from terrazzo.models import Segmenter
from terrazzo.models.decoders.attention import FCNAttentionDecoder, PositionAttention
from terrazzo.models.encoders.hybrid import HybridEncoder
from terrazzo.models.encoders.mit import EfficientSelfAttention, MixTransformer
from terrazzo.models.encoders.pvt import PyramidVisionTransformer
from terrazzo.models.encoders.vit import SelfAttention, VisionTransformer
from terrazzo.ownership import refuse_foreign, write_results
from terrazzo.weights.catalog import DEFAULT_MODEL
from terrazzo.weights.files import TrainedModel
from terrazzo.weights.load import load

__all__ = ["AttentionMaps", "attention_layers", "attention_maps", "attention_rows"]

AttentionModule = EfficientSelfAttention | SelfAttention | PositionAttention

DECODER = "decoder"
"""Name of the layer of a decoder with an attention block."""


@dataclass(frozen=True)
class AttentionMaps:
    """Attention maps of some points of an image.

    Attributes:
        image_HW3: the image, uint8 RGB.
        points: pixels of the image.
        classes: the predicted class at each.
        layers: in the order of the network.
        model: the model's name.
    """

    image_HW3: NDArray[np.uint8]
    points: tuple[Point, ...]
    classes: tuple[str, ...]
    layers: tuple[LayerAttention, ...]
    model: str

    def table(self) -> str:
        """Return a table in text: of each layer, how far and over how much of the keys its attention is spread.

        The numbers are means over the points, of attention averaged over the heads.
        """
        height, width = self.image_HW3.shape[:2]
        lines = [f"{'attention':<20}{'heads':>6}{'keys':>10}{'mean distance':>16}{'50% in':>9}{'95% in':>9}"]
        for layer in self.layers:
            heads, h, w = layer.weights_PNhw.shape[1:]
            distance = np.mean(layer.distances(self.points, height, width))
            half, most = (
                float(np.mean([area_holding(mean_hw, share) for mean_hw in layer.mean_Phw])) for share in (0.5, 0.95)
            )
            line = f"{layer.title:<20}{heads:>6}{f'{w} x {h}':>10}{f'{distance:.0f} px':>16}"
            lines.append(f"{line}{percent(half):>9}{percent(most):>9}")
        return "\n".join(lines)

    def save(self, folder: str | Path, stem: str, *, heads: bool = False, overwrite: bool = False) -> list[Path]:
        """Write STEM_attention.png and STEM_attention.npz, each atomically, and return their paths.

        The archive holds ``points`` (P, 2) as x and y, ``classes``, and for each layer ``weights_LAYER`` (P, N, h, w),
        ``covered_LAYER`` and, where there is one, ``class_token_LAYER`` (P, N).

        Args:
            folder: where to; it is created.
            stem: the beginning of the files' names.
            heads: also write STEM_attention_heads_LAYER.png for each layer, head by head.
            overwrite: replace any file that is there, not only earlier results.

        Raises:
            OutputError: a file is there that is not an earlier result, or the place cannot be written.
        """
        endings = ["attention.png", "attention.npz"]
        if heads:
            endings += [f"attention_heads_{layer.name}.png" for layer in self.layers]
        paths = [Path(folder, f"{stem}_{ending}") for ending in endings]
        refuse_foreign(paths, "explain", overwrite=overwrite, option="folder")
        arrays: dict[str, Any] = {"points": np.array(self.points), "classes": np.array(self.classes)}
        for layer in self.layers:
            arrays[f"weights_{layer.name}"] = layer.weights_PNhw
            arrays[f"covered_{layer.name}"] = np.array(layer.covered)
            if layer.class_token_PN is not None:
                arrays[f"class_token_{layer.name}"] = layer.class_token_PN
        archive = io.BytesIO()
        np.savez_compressed(archive, **arrays)
        where = (self.image_HW3, self.points, self.classes, self.model)
        contents = [attention_png(*where, self.layers), archive.getvalue()]
        if heads:
            contents += [heads_png(*where, layer) for layer in self.layers]
        write_results(dict(zip(paths, contents, strict=True)), "explain")
        return paths


@keeps_mode
@checked
def attention_maps(
    image: ImageSource,
    model: str | Path | TrainedModel = DEFAULT_MODEL,
    *,
    points: Sequence[Point] | None = None,
    layers: Sequence[str] | None = None,
    device: str | None = None,
    reading: ReadOptions | None = None,
) -> AttentionMaps:
    """Return the attention maps of a SegFormer or a SETR from some points of an image.

    Args:
        image: a path, encoded bytes, a PIL image or an (H, W, 3) uint8 RGB array.
        model: a loaded model, or what `terrazzo.load` takes.
        points: (x, y) pixels of the image; by default its centre and the middles of the largest predicted classes.
        layers: names of layers, such as ``2.1`` (stage 2, block 1) of a SegFormer or ``12`` of a SETR; by default
            a SegFormer's last block of each stage, and the blocks of a SETR whose output is emitted; and ``decoder``,
            where the decoder has an attention block.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.
        reading: how the photo is read, where its file leaves that open.

    Raises:
        ImageError: the image cannot be read.
        CheckpointError: the model cannot be loaded.
        ConfigError: a point is not on the image, or the model has no such layer or no attention.
    """
    trained = model if isinstance(model, TrainedModel) else load(model)
    image_HWC = (reading or ReadOptions()).for_model(trained.preprocess.bands).read(image)
    image_HW3 = trained.preprocess.as_rgb(image_HWC)
    height, width = image_HW3.shape[:2]
    if points is not None:
        check_points(points, height, width, str(image) if isinstance(image, (str, Path)) else "the photo")
    network = trained.network.eval().to(find_device(device))
    chosen = _chosen_layers(network, layers)
    images_13HW = torch.from_numpy(trained.preprocess(image_HWC)[None]).to(next(network.parameters()))

    with torch.inference_mode():
        if points is None:
            # The points are chosen from the predicted mask, so the network runs twice.
            mask_HW = _mask(network(images_13HW), images_13HW, (height, width))
            points = choose_points(mask_HW)
            found, _ = _record(network, images_13HW, chosen, _fractions(points, height, width))
        else:
            found, logits = _record(network, images_13HW, chosen, _fractions(points, height, width))
            mask_HW = _mask(logits, images_13HW, (height, width))
    classes = tuple(trained.labels.names[int(mask_HW[y, x])] for x, y in points)
    return AttentionMaps(image_HW3, tuple(points), classes, tuple(found), trained.name or trained.architecture)


def attention_layers(network: Segmenter) -> dict[str, AttentionModule]:
    """Return a network's attention modules by the names that `attention_maps` takes, first to last.

    Raises:
        ConfigError: it has none that can be drawn.
    """
    found: dict[str, Any] = {}
    encoder: Any = network.encoder
    if isinstance(encoder, MixTransformer | PyramidVisionTransformer):
        for number, stage in enumerate(encoder.stages, 1):
            assert isinstance(stage.blocks, nn.ModuleList)
            found |= {f"{number}.{place}": block.attn for place, block in enumerate(stage.blocks, 1)}
    elif (transformer := _transformer(encoder)) is not None:
        found = {str(number): block.attn for number, block in enumerate(transformer.blocks, 1)}
    if isinstance(network.decoder, FCNAttentionDecoder):
        found[DECODER] = network.decoder.attention
    if not found:
        raise ConfigError(
            f"a {type(encoder).__name__} has no attention that can be drawn: it is not the encoder of SegFormer, SETR "
            "or PVT, and the decoder has none",
            fix="ask for its receptive field alone: --show receptive-field",
            code="explain-no-attention",
        )
    return found


def _transformer(encoder: nn.Module) -> VisionTransformer | None:
    """Return the plain transformer of SETR's encoder or of its hybrid."""
    encoder = encoder.transformer if isinstance(encoder, HybridEncoder) else encoder
    return encoder if isinstance(encoder, VisionTransformer) else None


def attention_rows(module: AttentionModule, x: Tensor, tokens_P: Tensor) -> Tensor:
    """Compute some rows of the softmax that a module's `scaled_dot_product_attention` applies to one image.

    Args:
        module: the attention.
        x: its input, (1, H, W, C), (1, T, C), or (1, C, h, w) of a decoder's.
        tokens_P: places of the query tokens, counted row by row.

    Returns:
        (P, N, M).
    """
    if isinstance(module, PositionAttention):
        tokens_TC = x[0].flatten(1).T
        scores_PM = module.q(tokens_TC[tokens_P]) @ module.k(tokens_TC).T
        weights_P1M: Tensor = scores_PM.softmax(-1)[:, None]
        return weights_P1M
    C, heads = x.shape[-1], module.num_heads
    tokens_TC = x[0].reshape(-1, C)
    if isinstance(module, EfficientSelfAttention):
        q, kv = module.q, module.kv
        queries_PC = q(tokens_TC[tokens_P])
        source_MC = tokens_TC if module.sr is None else module.sr(x)[0]
        keys_MC = F.linear(source_MC, kv.weight[:C], kv.bias[:C])
    else:
        weights, biases = module.qkv.weight, module.qkv.bias
        queries_PC = F.linear(tokens_TC[tokens_P], weights[:C], biases[:C])
        keys_MC = F.linear(tokens_TC, weights[C : 2 * C], biases[C : 2 * C])
    queries_NPc = queries_PC.view(len(tokens_P), heads, C // heads).transpose(0, 1)
    keys_NcM = keys_MC.view(len(keys_MC), heads, C // heads).permute(1, 2, 0)
    scores_NPM: Tensor = queries_NPc @ keys_NcM / math.sqrt(C // heads)
    return scores_NPM.softmax(-1).transpose(0, 1)


def _chosen_layers(network: Segmenter, names: Sequence[str] | None) -> dict[str, AttentionModule]:
    known = attention_layers(network)
    if names is None:
        transformer = _transformer(network.encoder)
        if transformer is not None:
            names = [name for name in known if name == DECODER or int(name) in transformer.layers]
        else:  # of a stage's blocks, the last one stays
            names = list({name.partition(".")[0]: name for name in known}.values())
    if not names or (unknown := [name for name in names if name not in known]):
        raise ConfigError(
            f"the model has no layer {unknown[0]!r}" if names else "no layer is chosen",
            fix=f"choose from {', '.join(known)}",
            code="explain-layer",
        )
    return {name: module for name, module in known.items() if name in names}


def _record(
    network: Segmenter, images_13HW: Tensor, layers: dict[str, AttentionModule], points: Sequence[tuple[float, float]]
) -> tuple[list[LayerAttention], Tensor]:
    """Run the network and return the attention of points, given as fractions (y, x) of the image, and the logits."""
    found: list[LayerAttention] = []
    height, width = images_13HW.shape[2:]

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            (x,) = inputs
            if isinstance(module, EfficientSelfAttention):
                found.append(_segformer_layer(name, module, x, points))
            elif isinstance(module, PositionAttention):
                found.append(_decoder_layer(name, module, x, points))
            else:
                assert isinstance(module, SelfAttention)
                transformer = _transformer(network.encoder)
                assert transformer is not None and isinstance(network.encoder.strides, tuple)
                stride = network.encoder.strides[0]
                grid = math.ceil(height / stride), math.ceil(width / stride)
                found.append(_setr_layer(name, module, x, grid, transformer.class_token_in_blocks, points))

        return hook

    handles = [module.register_forward_pre_hook(hook_for(name)) for name, module in layers.items()]
    try:
        logits: Tensor = network(images_13HW)
    finally:
        for handle in handles:
            handle.remove()
    return found, logits


def _segformer_layer(
    name: str, module: EfficientSelfAttention, x_1HWC: Tensor, points: Sequence[tuple[float, float]]
) -> LayerAttention:
    H, W = x_1HWC.shape[1:3]
    R = 1 if module.sr is None else module.sr.ratio
    h, w = max(H // R, 1), max(W // R, 1)
    weights_PNM = attention_rows(module, x_1HWC, _tokens(points, H, W, x_1HWC))
    stage, _, block = name.partition(".")
    return LayerAttention(
        name=name,
        title=f"stage {stage}, block {block}",
        weights_PNhw=weights_PNM.reshape(len(points), -1, h, w).float().cpu().numpy(),
        class_token_PN=None,
        query_grid=(H, W),
        covered=(min(h * R / H, 1.0), min(w * R / W, 1.0)),
    )


def _setr_layer(
    name: str,
    module: SelfAttention,
    x_1TC: Tensor,
    grid: tuple[int, int],
    class_token: bool,
    points: Sequence[tuple[float, float]],
) -> LayerAttention:
    prefix = int(class_token)
    weights_PNT = attention_rows(module, x_1TC, _tokens(points, *grid, x_1TC) + prefix).float()
    return LayerAttention(
        name=name,
        title=f"block {name}",
        weights_PNhw=weights_PNT[..., prefix:].reshape(len(points), -1, *grid).cpu().numpy(),
        class_token_PN=weights_PNT[..., 0].cpu().numpy() if class_token else None,
        query_grid=grid,
        covered=(1.0, 1.0),
    )


def _decoder_layer(
    name: str, module: PositionAttention, x_1Chw: Tensor, points: Sequence[tuple[float, float]]
) -> LayerAttention:
    grid = x_1Chw.shape[2], x_1Chw.shape[3]
    weights_P1M = attention_rows(module, x_1Chw, _tokens(points, *grid, x_1Chw))
    return LayerAttention(
        name=name,
        title=name,
        weights_PNhw=weights_P1M.reshape(len(points), 1, *grid).float().cpu().numpy(),
        class_token_PN=None,
        query_grid=grid,
        covered=(1.0, 1.0),
    )


def _fractions(points: Sequence[Point], height: int, width: int) -> list[tuple[float, float]]:
    return [((y + 0.5) / height, (x + 0.5) / width) for x, y in points]


def _tokens(points: Sequence[tuple[float, float]], rows: int, columns: int, like: Tensor) -> Tensor:
    """Return the (P,) places of the tokens in whose cells the points lie."""
    places = [int(y * rows) * columns + int(x * columns) for y, x in points]
    return torch.tensor(places, device=like.device)


def _mask(logits_1Khw: Tensor, images_13HW: Tensor, size: tuple[int, int]) -> NDArray[np.integer]:
    height, width = images_13HW.shape[2:]
    return upsample_argmax(logits_1Khw[0].float().cpu().numpy(), [(height, width), size])

"""Backbones of Hugging Face transformers as encoders: PVT v2, Swin, ResNet, ConvNeXt, DINOv2, DINOv3 and others.

Needs the extra ``backbones``. The networks are transformers' own (its AutoBackbone classes); this file gives them what
the `Encoder` protocol asks for.

*Which maps.* A decoder reads several maps or the last. Of a pyramid, several are its last four stages, finest first;
of a plain transformer, the layers after which a quarter, a half, three quarters and all of it is done. The maps are
AutoBackbone's: without class and register tokens; of DINOv2 and DINOv3 each with the final LayerNorm; of Swin and
ConvNeXt each with a LayerNorm of its own, which files trained for classification do not have and which then starts
with weight 1 and bias 0.

*Channels and strides* are read off the maps of a small image when the network is built, and so are two more things:
whether maps of any size are rounded up, and which parameters no map depends on (mask tokens, and Swin's last norm).
Those are not trained.

*Sizes.* Any image of at least 1 x 1 works, and every map has ceil(H / stride) x ceil(W / stride) cells.

* PVT v2, Swin and ResNet round up by themselves, by zeros that are their own padding. They get the image as it is.
* ConvNeXt drops rows and columns that do not fill a patch. The image is extended to the next multiple of the coarsest
  stride, and cells that lie outside of it are cut off the maps. So cells lie as they do in a pyramid that rounds up.
* Plain transformers drop them too. Here the image is resized, bilinearly, as in SETR's own encoder (encoders/vit.py):
  all tokens see the image and nothing else, and their grid covers it evenly, which enlarging the logits relies on.
* LW-DETR and RF-DETR cut their map into a fixed number of windows. The image is extended to whole windows.
* An image smaller than the coarsest stride is extended to it: PVT v2's reduction windows would not fit into its maps.

Images are extended by repeating their last row and column, so that no edge appears that the image lacks.

*Dilation* (ResNet): `dilate_last_stages` turns the strides of the last two stages into dilation of all convolutions
that follow. At every fourth position of the finer map the values are exactly those of the undilated network.

Not here: ViT and DeiT, which have no AutoBackbone. SETR's own encoder takes their weights.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.costs import machine_memory
from terrazzo.errors import ConfigError, MissingExtraError
from terrazzo.fields import BelowOne
from terrazzo.models.encoders.swin_export import SWIN_FAMILIES, swin_maps
from terrazzo.models.layers import NothingToInitialize, ceil_div, first_cells
from terrazzo.models.maps import Maps
from terrazzo.text import printable, said_by

__all__ = ["NEW_NORMS", "Backbone", "backbone_config", "create_backbone", "dilate_last_stages"]

STEM = "stem"
OURS = ("vit", "deit")
"""Families without a backbone of transformers, whose weights our own encoder takes."""
NEW_NORMS = "hidden_states_norms."
"""Prefix of the norms that Swin's and ConvNeXt's backbones add to what a classifier has."""

NOT_THE_NETWORK = {
    *("architectures", "dtype", "torch_dtype", "id2label", "label2id", "out_features", "out_indices", "_name_or_path"),
    *("attn_implementation", "_attn_implementation", "auto_map", "quantization_config"),
}
"""Entries of a configuration that do not describe layers: a classifier's labels, the maps, code to run."""
MOST_LAYERS = 1000  # published networks have up to 48; each that is built costs time and memory


class Backbone(nn.Module):
    """A backbone of transformers that follows the `Encoder` protocol.

    Args:
        backbone: an AutoBackbone whose configuration names the maps to emit.

    Raises:
        ConfigError: it cannot process an image, or its maps do not have regular strides.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        config: Any = backbone.config
        patch = getattr(config, "patch_size", 1)
        # LW-DETR's and RF-DETR's cut their map into so many windows a side.
        windows = getattr(config, "num_windows_side", getattr(config, "num_windows", 1))
        self.is_extended = hasattr(config, "depths") or windows > 1
        # Of every stride up to 32, and of the patch.
        side = windows * math.lcm(32, *(patch if isinstance(patch, Sequence) else [patch]))
        backbone.eval()
        try:
            maps = self._maps_of_zeros(side, 2 * side)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ConfigError(
                f"{config.model_type} cannot be used as an encoder: {said_by(error, 200)}",
                fix="choose a backbone for images of any size",
                code="encoder-backbone",
            ) from error
        self.channels = tuple(x.shape[1] for x in maps)
        self.strides = tuple(side // x.shape[2] for x in maps)
        if not all(_has_stride(x, side, 2 * side, stride) for x, stride in zip(maps, self.strides, strict=True)):
            sizes = ", ".join(str(tuple(x.shape[2:])) for x in maps)
            raise ConfigError(
                f"{config.model_type} makes maps of {sizes} of an image of {(side, 2 * side)}: no regular strides",
                fix="choose another backbone",
                code="encoder-backbone",
            )
        for parameter in _unused(backbone, maps):
            parameter.requires_grad = False
        self.in_channels = self._in_channels()
        self.multiple = 1 if self._rounds_up(side + 1) else windows * max(self.strides)
        backbone.train()

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """Return one (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])) map per level."""
        H, W = images_B3HW.shape[2:]
        whole_H, whole_W = self._whole(H), self._whole(W)
        # An exported file of free sizes always goes through this: it leaves whole sizes as they are.
        if (self.multiple > 1 and torch.compiler.is_exporting()) or (whole_H, whole_W) != (H, W):
            if self.is_extended:
                images_B3HW = F.pad(images_B3HW, (0, whole_W - W, 0, whole_H - H), mode="replicate")
            else:
                images_B3HW = F.interpolate(images_B3HW, (whole_H, whole_W), mode="bilinear", align_corners=False)
        if torch.compiler.is_exporting() and self._family() in SWIN_FAMILIES:
            maps = swin_maps(self.backbone, images_B3HW)
        else:
            maps = self.backbone(images_B3HW).feature_maps
        return [
            first_cells(x_BChw, ceil_div(H, stride), ceil_div(W, stride)).contiguous(memory_format=torch.channels_last)
            for x_BChw, stride in zip(maps, self.strides, strict=True)
        ]

    def recompute_blocks(self) -> None:
        """Turn on activation checkpointing: keep each block's input, and recompute the rest in the backward pass.

        Raises:
            ConfigError: transformers cannot do that with this family.
        """
        backbone: Any = self.backbone
        if not backbone.supports_gradient_checkpointing:
            raise ConfigError(
                f"transformers has no checkpointing of {backbone.config.model_type}",
                fix="train without checkpointing, on a smaller crop or batch",
                code="encoder-checkpointing",
            )
        backbone.gradient_checkpointing_enable({"use_reentrant": False})

    def configuration(self) -> dict[str, Any]:
        """Return what `create_backbone` needs to build the network again, in JSON's types."""
        config: Any = self.backbone.config
        return {key: value for key, value in config.to_dict().items() if key not in NOT_THE_NETWORK}

    def _family(self) -> str:
        config: Any = self.backbone.config
        return str(config.model_type)

    def _whole(self, side: int) -> int:
        return max(ceil_div(side, self.multiple) * self.multiple, max(self.strides))

    def _maps_of_zeros(self, height: int, width: int) -> Sequence[Tensor]:
        weight = next(self.backbone.parameters())
        image = torch.zeros(1, self._in_channels(), height, width, dtype=weight.dtype, device=weight.device)
        maps: Sequence[Tensor] = self.backbone(image).feature_maps
        return maps

    def _in_channels(self) -> int:
        config: Any = self.backbone.config
        return int(getattr(config, "num_channels", 3))

    @torch.no_grad()
    def _rounds_up(self, side: int) -> bool:
        try:
            maps = self._maps_of_zeros(side, side)
        except (RuntimeError, ValueError):
            return False
        return all(_has_stride(x, side, side, stride) for x, stride in zip(maps, self.strides, strict=True))


def create_backbone(
    config: Mapping[str, Any],
    *,
    drop_path_rate: BelowOne | None = None,
    maps: Maps = "levels",
    in_channels: int = 3,
) -> Backbone:
    """Build a backbone with random weights.

    Args:
        config: what a ``config.json`` of transformers holds.
        drop_path_rate: stochastic depth, where the family has it; by default as configured.
        maps: "last" emits the last map alone, "dilated" too (see `dilate_last_stages`); the others emit several.
        in_channels: bands of the images.

    Raises:
        ConfigError: the configuration cannot be used.
        MissingExtraError: transformers is not installed.
    """
    # Inference mode would leave its mark on the parameters, and the pass over a small image looks at gradients.
    with torch.inference_mode(False), torch.enable_grad():
        model_class, made = backbone_config(config, maps, drop_path_rate, in_channels)
        try:
            _refuse_larger_than_memory(model_class, made)
            backbone: Any = model_class(made)
        except Exception as error:  # anything that a configuration's own checks raise
            raise _unusable(made.model_type, error) from error
        if maps == "dilated":
            dilate_last_stages(backbone)
        return Backbone(backbone)


def _refuse_larger_than_memory(model_class: Any, config: Any) -> None:
    """Refuse a configuration of a few lines that asks for more than this machine has."""
    with torch.device("meta"), NothingToInitialize():
        parameters = sum(parameter.numel() for parameter in model_class(config).parameters())
    if 4 * parameters > machine_memory():
        raise ValueError(f"its {parameters / 1e6:,.0f} million parameters do not fit into this machine's memory")


def backbone_config(
    config: Mapping[str, Any], maps: Maps, drop_path_rate: float | None = None, in_channels: int | None = None
) -> tuple[Any, Any]:
    """Return transformers' class of a backbone, and its configuration.

    Args:
        config: as `create_backbone` takes it.
        maps: as `create_backbone` takes it.
        drop_path_rate: as `create_backbone` takes it.
        in_channels: bands of the images; by default as configured.

    Raises:
        ConfigError: the configuration cannot be used.
        MissingExtraError: transformers is not installed.
    """
    try:
        from transformers import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_FOR_BACKBONE_MAPPING_NAMES
    except ImportError as error:
        raise MissingExtraError("transformers", "backbones") from error
    kind = str(config.get("model_type"))
    if kind not in MODEL_FOR_BACKBONE_MAPPING_NAMES or kind == "timm_backbone":
        own = "choose one of our own, such as vit_base, and its weights (--weights); or " if kind in OURS else ""
        raise ConfigError(
            f"the encoder is a {printable(kind)[:100]}, which transformers has no backbone for",
            fix=f"{own}choose a pvt_v2, swin, resnet, convnext, dinov2 or dinov3_vit",
            code="encoder-backbone",
        )
    if maps == "dilated":
        _refuse_dilation(kind)
    try:
        made = CONFIG_MAPPING[kind].from_dict(_of_the_layers(config, CONFIG_MAPPING[kind]))
        made.out_features = _stages(made, maps not in ("last", "dilated"))
        if hasattr(made, "reshape_hidden_states"):
            made.reshape_hidden_states = True
        if drop_path_rate is not None and hasattr(made, "drop_path_rate"):
            made.drop_path_rate = drop_path_rate
        if in_channels is not None:
            made.num_channels = in_channels
        return MODEL_FOR_BACKBONE_MAPPING[type(made)], made
    except Exception as error:  # anything that a configuration's own checks raise
        raise _unusable(kind, error) from error


def _unusable(kind: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"the encoder has no usable {kind} configuration: {said_by(error, 200)}",
        fix="start from the config.json of a published model",
        code="encoder-config",
    )


def dilate_last_stages(backbone: Any, stages: int = 2) -> None:
    """Turn the strides of a ResNet's last stages into dilation (Yu and Koltun 2016, arXiv 1511.07122).

    Where a convolution loses its stride, the ones after it see positions that lie that much further apart, so that the
    weights meet the same things as before. Output stride 32 becomes 8.

    Args:
        backbone: changed in place.
        stages: how many.

    Raises:
        ConfigError: it is not a ResNet.
    """
    _refuse_dilation(backbone.config.model_type)
    dilation = 1
    for stage in backbone.encoder.stages[-stages:]:
        for block in stage.layers:
            if not isinstance(block.shortcut, nn.Identity):
                block.shortcut.convolution.stride = (1, 1)
            for conv in (part.convolution for part in block.layer):
                if conv.kernel_size != (1, 1):
                    conv.dilation = (dilation, dilation)
                    conv.padding = tuple(dilation * (side // 2) for side in conv.kernel_size)
                dilation *= conv.stride[0]
                conv.stride = (1, 1)


def _of_the_layers(values: Mapping[str, Any], config_class: Any) -> dict[str, Any]:
    """Return the values that a family's configuration declares.

    transformers sets all others as attributes, over its own methods too. ValueError: more layers than any network has.
    """
    known = {*inspect.signature(config_class.__init__).parameters, *config_class.attribute_map} - NOT_THE_NETWORK
    depths, layers = values.get("depths"), values.get("num_hidden_layers")
    counts = [n for n in (*(depths if isinstance(depths, list) else []), layers) if isinstance(n, (int, float))]
    if sum(counts) > MOST_LAYERS:
        raise ValueError(f"{sum(counts):,} layers are more than {MOST_LAYERS:,}")
    return {key: value for key, value in values.items() if key in known}


def _stages(config: Any, several: bool) -> list[str]:
    names = [name for name in config.stage_names if name != STEM]
    if not several:
        return names[-1:]
    if hasattr(config, "depths"):
        return names[-4:]
    return [names[number - 1] for number in sorted({math.ceil(len(names) * part / 4) for part in range(1, 5)})]


def _refuse_dilation(kind: str) -> None:
    if kind != "resnet":
        raise ConfigError(
            f"a {kind} has no strides that could be turned into dilation here",
            fix="choose a ResNet such as hf:microsoft/resnet-50, or the decoder fcn in place of fcn_dilated",
            code="encoder-dilation",
        )


# -- what a pass over a small image tells -----------------------------------------------------------------------------


def _has_stride(x_BChw: Tensor, height: int, width: int, stride: int) -> bool:
    return x_BChw.shape[2:] == (math.ceil(height / stride), math.ceil(width / stride))


def _unused(backbone: nn.Module, maps: Sequence[Tensor]) -> list[nn.Parameter]:
    """Return the parameters that no map depends on, found by following the maps' gradients back."""
    nodes: list[Any] = [x.grad_fn for x in maps]
    seen, used = set(nodes), set()
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            used.add(id(node.variable))
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        nodes.extend(following)
    return [parameter for parameter in backbone.parameters() if id(parameter) not in used]

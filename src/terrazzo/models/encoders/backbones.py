"""Backbones of Hugging Face transformers as encoders: PVT v2, Swin, ResNet, ConvNeXt, DINOv2, DINOv3 and their kin.

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
* An image smaller than the coarsest stride is extended to it: PVT v2's reduction windows would not fit into its maps.

Images are extended by repeating their last row and column, so that no edge appears that the photo has not.

*Dilation* (ResNet): `dilate_last_stages` turns the strides of the last two stages into dilation of all convolutions
that follow. At every fourth position of the finer map the values are exactly those of the undilated network.

Not here: ViT and DeiT, which have no AutoBackbone. SETR's own encoder takes their weights.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.config import read_json
from terrazzo.errors import CheckpointError, ConfigError, MissingExtraError
from terrazzo.hub import download

__all__ = ["Backbone", "brings_weights", "create_backbone", "dilate_last_stages", "weights_folder"]

PREFIX = "hf:"
STEM = "stem"
NEW_NORMS = "hidden_states_norms."
"""What Swin's and ConvNeXt's backbones have and a classifier's weights have not."""

NOT_THE_NETWORK = {
    *("architectures", "dtype", "torch_dtype", "id2label", "label2id", "out_features", "out_indices", "_name_or_path"),
    *("attn_implementation", "_attn_implementation", "auto_map", "quantization_config"),
}
"""What a configuration says beside the layers: a classifier's names, which maps, whose code is to run."""
MOST_LAYERS = 1000  # published networks have up to 48; each that is built costs time and memory


class Backbone(nn.Module):
    """A backbone of transformers that follows the `Encoder` protocol.

    Args:
        backbone: an AutoBackbone whose configuration names the maps to emit.

    Raises:
        ConfigError: it takes no RGB images, or its maps do not have regular strides.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        config: Any = backbone.config
        self.is_pyramid = hasattr(config, "depths")
        patch = getattr(config, "patch_size", 1)
        # Of every stride up to 32, and of the patch.
        side = math.lcm(32, *(patch if isinstance(patch, Sequence) else [patch]))
        backbone.eval()
        try:
            maps = self._maps_of_nothing(side, 2 * side)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ConfigError(
                f"{config.model_type} cannot be used as an encoder: {' '.join(str(error).split())[:200]}",
                fix="choose a backbone for RGB images of any size",
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
        self.multiple = 1 if self._rounds_up(side + 1) else max(self.strides)
        backbone.train()

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """Return one (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])) map per level."""
        H, W = images_B3HW.shape[2:]
        whole_H, whole_W = self._whole(H), self._whole(W)
        # An exported file of free sizes always goes through this: it leaves whole sizes as they are.
        if (self.multiple > 1 and torch.compiler.is_exporting()) or (whole_H, whole_W) != (H, W):
            if self.is_pyramid:
                images_B3HW = F.pad(images_B3HW, (0, whole_W - W, 0, whole_H - H), mode="replicate")
            else:
                images_B3HW = F.interpolate(images_B3HW, (whole_H, whole_W), mode="bilinear", align_corners=False)
        maps = self.backbone(images_B3HW).feature_maps
        return [
            _cut(x_BChw, _quotient(H, stride), _quotient(W, stride)).contiguous(memory_format=torch.channels_last)
            for x_BChw, stride in zip(maps, self.strides, strict=True)
        ]

    def recompute_blocks(self) -> None:
        """Keep only what goes into each block for the backward pass, and compute the rest again.

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

    def _whole(self, side: int) -> int:
        return max(_quotient(side, self.multiple) * self.multiple, max(self.strides))

    def _maps_of_nothing(self, height: int, width: int) -> Sequence[Tensor]:
        weight = next(self.backbone.parameters())
        image = torch.zeros(1, 3, height, width, dtype=weight.dtype, device=weight.device)
        maps: Sequence[Tensor] = self.backbone(image).feature_maps
        return maps

    @torch.no_grad()
    def _rounds_up(self, side: int) -> bool:
        try:
            maps = self._maps_of_nothing(side, side)
        except (RuntimeError, ValueError):
            return False
        return all(_has_stride(x, side, side, stride) for x, stride in zip(maps, self.strides, strict=True))


def create_backbone(
    encoder: str | Mapping[str, Any],
    *,
    several: bool,
    dilated: bool = False,
    drop_path_rate: float | None = None,
) -> Backbone:
    """Build a backbone, with the weights of a file or random ones.

    Args:
        encoder: ``hf:`` and then a model of the Hugging Face hub, or a folder with one, for its weights; ``hf:`` and
            the path of a ``config.json``, or what such a file holds, for random weights.
        several: emit several maps, or the last alone.
        dilated: see `dilate_last_stages`.
        drop_path_rate: stochastic depth, where the family has it; by default as configured.

    Raises:
        ConfigError: the encoder cannot be found or used.
        CheckpointError: its weights cannot be had, or do not fit its configuration.
        MissingExtraError: transformers is not installed.
    """
    try:
        from transformers import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_FOR_BACKBONE_MAPPING_NAMES
    except ImportError as error:
        raise MissingExtraError("transformers", "backbones") from error
    values, folder, where = _locate(encoder)
    kind = str(values.get("model_type"))
    if kind not in MODEL_FOR_BACKBONE_MAPPING_NAMES or kind == "timm_backbone":
        own = "start a SETR such as setr_pup_base from its weights (--weights); or " if kind in ("vit", "deit") else ""
        raise ConfigError(
            f"{where} is a {kind}, which transformers has no backbone for",
            fix=f"{own}choose a pvt_v2, swin, resnet, convnext, dinov2 or dinov3_vit",
            code="encoder-backbone",
        )
    if dilated:
        _refuse_dilation(kind)
    # Inference mode would leave its mark on the parameters, and the pass over a small image looks at gradients.
    with torch.inference_mode(False), torch.enable_grad():
        try:
            config = CONFIG_MAPPING[kind].from_dict(_of_the_layers(values, CONFIG_MAPPING[kind]))
            config.out_features = _stages(config, several)
            if hasattr(config, "reshape_hidden_states"):
                config.reshape_hidden_states = True
            if drop_path_rate is not None and hasattr(config, "drop_path_rate"):
                config.drop_path_rate = drop_path_rate
            model_class = MODEL_FOR_BACKBONE_MAPPING[type(config)]
            backbone: Any = model_class(config) if folder is None else None
        except Exception as error:  # whatever a configuration's own checks raise
            raise ConfigError(
                f"{where} is no usable {kind} configuration: {' '.join(str(error).split())[:200]}",
                fix="start from the config.json of a published model",
                code="encoder-config",
            ) from error
        if folder is not None:
            backbone = _load(model_class, folder, config)
        if dilated:
            dilate_last_stages(backbone)
        return Backbone(backbone)


def dilate_last_stages(backbone: Any, stages: int = 2) -> None:
    """Turn the strides of a ResNet's last stages into dilation (Yu and Koltun 2016, arXiv 1511.07122).

    Where a convolution loses its stride, the ones after it see positions that lie that much further apart, so that the
    weights meet the same things as before. Output stride 32 becomes 8.

    Args:
        backbone: changed in place.
        stages: how many.

    Raises:
        ConfigError: it is no ResNet.
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


def _quotient(side: int, step: int) -> int:
    """Divide and round up, in whole numbers: torch.export follows free sizes through these alone."""
    return -(-side // step)


def _cut(x_BChw: Tensor, height: int, width: int) -> Tensor:
    if not torch.compiler.is_exporting():
        return x_BChw[:, :, :height, :width]
    # Of a free size a slice would have to know whether it cuts anything off.
    rows, columns = (torch.arange(side, device=x_BChw.device) for side in (height, width))
    return x_BChw.index_select(2, rows).index_select(3, columns)


# -- where a backbone comes from --------------------------------------------------------------------------------------


def brings_weights(encoder: str) -> bool:
    """Whether an encoder, named as `create_backbone` takes it, is one with weights and no ``config.json`` alone."""
    return not os.path.isfile(_path(encoder))


def weights_folder(encoder: str) -> Path | None:
    """Return the folder with an encoder's weights, fetched from the hub where that is needed; None for random weights.

    Raises:
        ConfigError: the encoder is not named as `create_backbone` takes it.
        CheckpointError: the hub does not give it.
    """
    if not brings_weights(encoder):
        return None
    path = _path(encoder)
    if path.suffix == ".json":
        raise ConfigError(f"there is no file {path}", fix="check the path of the config.json", code="encoder-config")
    return path if os.path.isdir(path) else download(encoder.removeprefix(PREFIX))


def _path(encoder: str) -> Path:
    name = encoder.removeprefix(PREFIX)
    if name == encoder or not name:
        raise ConfigError(
            f"unknown encoder {encoder!r}",
            fix=f"write {PREFIX} and then a model of the Hugging Face hub, a folder with one, or a config.json: "
            f"{PREFIX}facebook/dinov2-base",
            code="encoder-name",
        )
    return Path(name)


def _locate(encoder: str | Mapping[str, Any]) -> tuple[Mapping[str, Any], Path | None, str]:
    """Return the configuration, the folder of its weights if there is one, and what to call it in messages."""
    if isinstance(encoder, Mapping):
        return encoder, None, "the encoder"
    folder = weights_folder(encoder)
    path = _path(encoder) if folder is None else folder / "config.json"
    values = read_json(path, code="encoder-config")
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds no configuration", fix="give a config.json of transformers", code="encoder-config"
        )
    return values, folder, encoder.removeprefix(PREFIX)


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


def _load(model_class: Any, folder: Path, config: Any) -> nn.Module:
    try:
        with _quiet():
            backbone, report = model_class.from_pretrained(
                folder, config=config, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except Exception as error:  # transformers raises whatever its readers do
        raise CheckpointError(
            f"the weights in {folder} cannot be loaded: {' '.join(str(error).split())[:300]}",
            fix=f"copy the folder again; for random weights give {PREFIX}{folder / 'config.json'}",
            code="encoder-weights",
        ) from error
    if missing := sorted(key for key in report["missing_keys"] if not key.startswith(NEW_NORMS)):
        raise CheckpointError(
            f"the weights in {folder} lack {len(missing)} of the {config.model_type}'s tensors: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}",
            fix="give the folder of a whole model, with the config.json that belongs to it",
            code="encoder-weights",
        )
    module: nn.Module = backbone
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing bars and tables; what matters in them is raised."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


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

"""Recognises networks that cannot be loaded by their tensors' names, so that the refusal says what a file is."""

from __future__ import annotations

import re
from collections.abc import Iterable

from terrazzo.errors import CheckpointError

__all__ = ["LONGEST_NAME", "OTHER_NETWORK", "foreign_network", "refuse_foreign"]

LONGEST_NAME = 300
"""Longer ones no network has, and patterns are slow on them."""

WHOLE: tuple[tuple[str, str], ...] = (
    ("a LoRA adapter", r"(.*\.)?lora_([AB]|down|up|embedding_[AB])(\..*)?"),
    ("a shard of FSDP", r"(.*\.)?_?flat_param(_\d+)?"),
    ("SAM (Segment Anything)", r"(.*\.)?prompt_encoder\..*|(.*\.)?mask_decoder\.(transformer|iou_\w+|output_\w+)\..*"),
    (
        "Mask2Former, MaskFormer or EoMT",
        r"(.*\.)?(sem_seg_head\.(predictor|pixel_decoder)|pixel_level_module|class_predictor)\..*",
    ),
    ("Segmenter", r"(.*\.)?(decoder|decode_head)\.cls_emb"),
    ("a detector of the DETR family", r"(.*\.)?(class_embed|bbox_embed|class_labels_classifier|bbox_predictor)\..*"),
    ("a detector of the R-CNN family", r"(.*\.)?(roi_heads?|rpn|rpn_head)\..*"),
    ("a YOLO model", r"(model\.)*\d+\.(dfl|cv\d|m\.\d+|conv)\..*"),
    ("DeepLab", r"(.*\.)?(image_pool|aspp|aspp_modules|sep_aspp_modules)\..*|(.*\.)?classifier\.0\.convs\.\d.*"),
    ("UPerNet, FPN or PSPNet", r"(.*\.)?(psp_modules|psp|lateral_convs|fpn_convs|fpn_bottleneck)\..*"),
    ("OCRNet", r"(.*\.)?(object_context_block|spatial_gather_module|ocr_\w+)\..*"),
    ("SegNeXt", r"(.*\.)?(hamburger|spatial_gating_unit)\..*"),
    ("DPT or Depth Anything", r"(.*\.)?(reassemble_stage|reassemble_blocks|refinenet\d|fusion_stage|depth_head)\..*"),
    ("a model of segmentation_models.pytorch, such as its U-Net", r"(.*\.)?segmentation_head\.0\.weight"),
    (
        "a U-Net",
        r"(.*\.)?double_conv\..*|(.*\.)?up_?convs?\d*\..*|(.*\.)?model\.\d\.submodule\..*"
        r"|(encoder|decoder)\.stages\.\d+\.(\d+\.)?convs\..*",
    ),
    (
        "CLIP or SigLIP",
        r"(.*\.)?(text_model|vision_model|visual|transformer\.resblocks)\..*|logit_scale|embeddings\.patch_embedding\..*",
    ),
    (
        "BEiT or Swin",
        r"(.*\.)?(relative_position_bias_table|relative_position_bias\..*|lambda_1|gamma_1|"
        r"(continuous_position_bias_mlp|cpb_mlp)\..*)",
    ),
    (
        "a ViT with register tokens or rotary positions",
        r"(.*\.)?(reg_token|register_tokens|storage_tokens|rope_embed\..*|rope\..*)",
    ),
)
"""Networks by a part that only they have: such a part tells them from an encoder alone."""

ENCODERS: tuple[tuple[str, str], ...] = (
    ("a head of DINO's pretraining", r"(.*\.)?(last_layer|prototypes)\..*|mlp\.\d\.(weight|bias)"),
    ("HRNet", r"(.*\.)?stage[2-4]\.\d+\.(branches|fuse_layers)\..*"),
    ("ConvNeXt", r"(.*\.)?(downsample_layers\.\d|pwconv[12])\..*|(.*\.)?stages\.\d\.(blocks\.)?\d\.gamma"),
    ("a ResNet", r"(.*\.)?(layer[1-4]\.\d+\.(conv[1-3]|bn[1-3])|embedder\.embedder)\..*"),
    ("PVT", r"(.*\.)?layers\.\d\.patch_embedding\..*|(.*\.)?patch_embeddings\.\d\.position_embeddings"),
    ("a convolutional classifier of torchvision or timm", r"features\.\d+\..*|conv_stem\.weight"),
)

HINT = {
    "a LoRA adapter": "merge it where it was made: model.merge_and_unload().save_pretrained(folder); a folder with "
    "adapter_config.json is merged here",
    "a shard of FSDP": "save the whole where it was trained: get_model_state_dict of torch.distributed.checkpoint's "
    "state_dict, with full_state_dict=True",
}
OTHER_NETWORK = (
    "give weights of SegFormer or SETR (docs/weights.md says of whom); `terrazzo train --encoder hf:NAME` trains on "
    "the encoders of transformers"
)


def foreign_network(names: Iterable[str], is_encoder: bool = False) -> str | None:
    """Return what network has such names, if it is a known one.

    Args:
        names: of its tensors.
        is_encoder: an encoder that is read here has been found among them.
    """
    names = [name for name in names if len(name) <= LONGEST_NAME]
    for network, pattern in WHOLE if is_encoder else (*WHOLE, *ENCODERS):
        fits = re.compile(pattern).fullmatch
        if any(map(fits, names)):
            return network
    return None


def refuse_foreign(names: Iterable[str], where: str, is_encoder: bool) -> None:
    """Refuse another network by its name.

    Raises:
        CheckpointError: it is one that is known.
    """
    network = foreign_network(names, is_encoder)
    if network is not None:
        raise CheckpointError(
            f"{where} is {network}, which is not among the networks that are read here",
            fix=HINT.get(network, OTHER_NETWORK),
            code="checkpoint-unknown",
        )

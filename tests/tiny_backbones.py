"""Configurations of transformers' backbones, one of each family, with as few channels and layers as they take."""

from __future__ import annotations

from typing import Any

TINY_BACKBONES: dict[str, dict[str, Any]] = {
    "pvt_v2": {
        "model_type": "pvt_v2",
        "hidden_sizes": [4, 8, 12, 16],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 3, 4],
        "mlp_ratios": [2, 2, 2, 2],
    },
    "swin": {"model_type": "swin", "embed_dim": 4, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 3},
    "resnet": {
        "model_type": "resnet",
        "embedding_size": 4,
        "hidden_sizes": [8, 12, 16, 20],
        "depths": [1, 2, 2, 3],
        "layer_type": "bottleneck",
    },
    "convnext": {
        "model_type": "convnext",
        "hidden_sizes": [4, 8, 12, 16],
        "depths": [1, 1, 1, 1],
        "layer_scale_init_value": 0.5,
    },
    "dinov2": {
        "model_type": "dinov2",
        "hidden_size": 8,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "patch_size": 14,
        "image_size": 56,
    },
    "dinov3_vit": {
        "model_type": "dinov3_vit",
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "patch_size": 16,
        "num_register_tokens": 2,
    },
}

PYRAMIDS = ("pvt_v2", "swin", "resnet", "convnext")
PLAIN = ("dinov2", "dinov3_vit")

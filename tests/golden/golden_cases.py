"""The runs whose numbers are stored under data/. After a change that is meant to alter them, store them again:

    python tests/golden/golden_cases.py

and say in the commit why they moved.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from terrazzo.models import Segmenter
from terrazzo.training.losses.cross_entropy import upsampled_cross_entropy
from terrazzo.training.optim import learning_rate_factor, parameter_groups, set_learning_rate
from terrazzo.weights.create import create_model

DATA = Path(__file__).parent / "data"
MODELS = ("segformer_b0", "setr_naive_tiny", "setr_pup_tiny", "setr_mla_tiny")
CURVE_FILE = DATA / "segformer_b0_loss_curve.json"
STEPS = 10


def logits_file(name: str) -> Path:
    return DATA / f"{name}_logits.npz"


def seeded_model(name: str, num_classes: int) -> Segmenter:
    """Return the model that seed 0 makes, with nothing random left in its training mode."""
    torch.manual_seed(0)
    model = create_model(name, num_classes, drop_path_rate=0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    return model


def logits_case(name: str) -> dict[str, np.ndarray]:
    """Return what a model makes of a random image: its initial weights, feature maps and logits.

    Arrays: `initial_norms`, the length of every initial tensor in the order of the state dict; `features`, (4, 4), the
    mean, standard deviation, smallest and largest value of each map; `logits`, (1, 5, h, w).
    """
    model = seeded_model(name, 5).eval()
    norms = [value.double().norm().item() for value in model.state_dict().values()]
    with torch.no_grad():
        # Biases and norms that start at 0 and 1 would hide how they are used.
        for value in model.state_dict().values():
            if value.ndim == 1:
                value.add_(torch.empty_like(value).uniform_(0.0, 0.5))
        images = torch.randn(1, 3, 48, 64)
        features = model.encoder(images)
        logits = model(images)
    statistics = [[x.mean(), x.std(), x.min(), x.max()] for x in features]
    return {
        "initial_norms": np.array(norms, np.float32),
        "features": np.array(statistics, np.float32),
        "logits": logits.numpy(),
    }


def loss_curve_case() -> list[float]:
    """Return the losses of ten training steps on two random images whose labels depend on their colour."""
    model = seeded_model("segformer_b0", 4).train()
    images = torch.nn.functional.interpolate(torch.randn(2, 3, 6, 8), size=(48, 64), mode="bilinear")
    labels = (images[:, 0] > 0).long() * 2 + (images[:, 1] > 0).long()
    labels[:, :5] = 255
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-4, 0.01, 10.0), lr=1e-4, betas=(0.9, 0.999))
    losses = []
    for step in range(STEPS):
        factor = learning_rate_factor(step, STEPS, power=1.0, warmup_steps=3, warmup_ratio=0.1)
        set_learning_rate(optimizer, factor, 0.0)
        loss = upsampled_cross_entropy(model(images), labels, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    torch.set_num_threads(1)
    DATA.mkdir(exist_ok=True)
    for model_name in MODELS:
        np.savez_compressed(logits_file(model_name), **logits_case(model_name))
    CURVE_FILE.write_text(json.dumps([round(loss, 6) for loss in loss_curve_case()]) + "\n")

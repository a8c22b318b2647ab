"""Runs small enough for a test: a few photos of 48 x 64 pixels, windows of 32 x 32, a narrow SegFormer, one thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import rich.progress  # noqa: F401  # the first import draws from Python's generator, which checkpoints hold
import torch
from PIL import Image
from torch.distributed import TCPStore

from terrazzo.models import ModelSpec
from terrazzo.models.segformer import segformer_spec
from terrazzo.models.setr import setr_spec
from terrazzo.training.data import labelled_pixels, open_splits
from terrazzo.training.distributed import Ranks
from terrazzo.training.recipe import Recipe, automatic_recipe
from terrazzo.training.trainer import Trainer
from terrazzo.weights.load import StartingWeights

ALONE = Ranks(0, 1, torch.device("cpu"))
PATIENCE = 600.0  # seconds after which something is taken to hang; it may be as slow as it likes before

NANO = {"embed_dim": 16, "depth": 4, "num_heads": 2}
TINY_MIT = {"embed_dims": (8, 16, 20, 32), "depths": (1, 1, 1, 1)}
TINY: dict[str, ModelSpec] = {
    "segformer_tiny": segformer_spec("segformer_tiny", TINY_MIT, 16),
    "setr_naive_nano": setr_spec("setr_naive_nano", NANO, "naive", (1, 2, 3, 4), (1, 2, 3)),
    "setr_pup_nano": setr_spec("setr_pup_nano", NANO, "pup", (1, 2, 3, 4), (1, 2, 3, 4)),
    "setr_mla_nano": setr_spec("setr_mla_nano", NANO, "mla", (1, 2, 3, 4), (1, 2, 3, 4)),
}


def make_data(root: Path, train: int = 5, val: int = 3, classes: int = 3) -> Path:
    """Write photos of flat 16 x 16 tiles, each class of another brightness; one corner of each mask is ignored."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            mask = np.kron(rng.integers(0, classes, (3, 4)), np.ones((16, 16))).astype(np.uint8)
            image = (mask[..., None] * (200 // classes) + rng.integers(0, 50, (48, 64, 3))).astype(np.uint8)
            mask[:4, :4] = 255
            Image.fromarray(image).save(root / split / "images" / f"{split}_{number}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{split}_{number}.png")
    names = [f"class {k}" for k in range(classes)]
    (root / "labels.yaml").write_text(f"names: {names}\n")
    return root


def tiny_recipe(model: str | ModelSpec = "segformer_tiny", **changes: Any) -> Recipe:
    """Two epochs of two steps of two photos; the random parts of training are on. A name may be one of `TINY`."""
    spec = TINY.get(model, model) if isinstance(model, str) else model
    recipe = automatic_recipe(spec, [(48, 64)] * 5, epochs=2, batch_size=2)
    return recipe.changed({"crop": (32, 32), "drop_path": 0.3, "precision": "fp32", **changes})


def tiny_trainer(
    data: Path,
    output: Path,
    ranks: Ranks = ALONE,
    workers: int = 0,
    initial: StartingWeights | None = None,
    reset_head: bool = False,
    **changes: Any,
) -> Trainer:
    recipe = tiny_recipe(**changes)
    train, val = open_splits(recipe.data, data)
    return Trainer(recipe, train, val, labelled_pixels(train), output, ranks, workers, initial, reset_head)


# -- other processes --------------------------------------------------------------------------------------------------


def start(function: Callable[..., None], *arguments: Any, ranks: int | None = None) -> list[BaseProcess]:
    """Start a function in processes of their own groups, one for each rank.

    They are forked from a server that has imported what they need, which saves seconds each.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["terrazzo.training.train", "rich.progress", "torch.utils.tensorboard", "matplotlib.figure"]
    )
    # Ranks meet at a port that is listened on already, as torchrun's are, so that no other process can take it.
    store = None if ranks is None else TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes: list[BaseProcess] = []
    for rank in range(ranks or 1):
        place: dict[str, object] = {}
        if store is not None:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": store.port}
            place["TORCHELASTIC_USE_AGENT_STORE"] = True
        process = context.Process(target=_entered, args=(place, function, arguments), daemon=False)
        process.start()
        process.store = store  # type: ignore[attr-defined]  # which listens for as long as they are known
        processes.append(process)
    return processes


def finish(processes: list[BaseProcess], seconds: float = PATIENCE) -> list[int | None]:
    """Wait for processes and return their exit codes; whatever is left of them is killed."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(until - time.monotonic(), 0))
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.is_alive() and process.pid is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        process.close()
    return codes


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Return once a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.02)


def _entered(place: dict[str, object], function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.setsid()
    torch.set_num_threads(1)
    if place:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", **{key: str(value) for key, value in place.items()}}
    function(*arguments)

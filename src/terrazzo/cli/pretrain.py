"""`terrazzo pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from terrazzo.cli.options import DeviceOption
from terrazzo.cli.say import say

__all__ = ["pretrain"]


def pretrain(
    photos: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    model: Annotated[str | None, Parameter(name=["--model", "-m"])] = None,
    recipe: Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    crop: tuple[int, int] | None = None,
    lr: float | None = None,
    mask_ratio: float | None = None,
    mask_patch: int | None = None,
    seed: int | None = None,
    precision: str | None = None,
    resume: Annotated[bool, Parameter(negative=())] = False,
    workers: int | None = None,
    device: DeviceOption = None,
) -> None:
    """Pretrain an encoder on photos without masks, so that training on few labels starts from it.

    Patches of each photo are hidden, and the encoder learns to fill them in (masked image modelling). It pays with
    thousands of photos that look like those you label; weights trained on ImageNet are the better start where you may
    use them.

    Examples:
        terrazzo pretrain photos/ --output runs/pretrained
        terrazzo pretrain photos/ --model vit_small --epochs 200 --output runs/vit
        terrazzo train --data my-folder --weights runs/pretrained --output runs/mine

    Parameters
    ----------
    photos
        Learn from the photos in this folder, searched to any depth.
    output
        Write the run into this folder, which `terrazzo train --weights` takes.
    model
        Pretrain the encoder of this model, or this encoder, such as mit_b0 or vit_small; by default segformer_b0.
    recipe
        Pretrain by this recipe file; other options change single values of it.
    epochs
        Go through the photos so many times; by default 100.
    batch_size
        Learn from so many photos in a step, over all processes; by default 16.
    crop
        Learn from windows of this height and width; by default 192 192.
    lr
        Begin with this learning rate; by default 0.0004.
    mask_ratio
        Hide this share of each window; by default 0.6.
    mask_patch
        Hide patches with this side in pixels; by default 32.
    seed
        Draw weights, order, augmentation and hidden patches from this seed; by default 0.
    precision
        Compute in fp32, bf16, or auto (the default: bf16 where the hardware multiplies it natively).
    resume
        Continue from the newest checkpoint in the output folder, with the run's own recipe.
    workers
        Load photos in so many processes; by default one for each core but one, at most 8.
    """
    from terrazzo.training.pretrain import pretrain as run_pretraining

    given: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "crop": crop,
        "optimizer.lr": lr,
        "mask_ratio": mask_ratio,
        "mask_patch": mask_patch,
        "seed": seed,
        "precision": precision,
    }
    run = run_pretraining(
        photos,
        output,
        model,
        recipe=recipe,
        overrides={key: value for key, value in given.items() if value is not None},
        resume=resume,
        workers=workers,
        device=device,
    )
    if run is not None:
        say(f"loss {run.loss:.4f} after {run.steps} steps")
        say(f"run written to {run.output}; start from it with: terrazzo train --weights {run.output}")

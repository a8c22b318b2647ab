"""Effective receptive fields: which pixels a unit in the middle of each feature map, and of the logits, depends on.

After Luo et al. 2016 (arXiv 1701.04128), as SegFormer uses it (arXiv 2105.15203, figure 3): the gradient of a map's
centre unit with respect to the image, averaged over photos. A pixel's contribution is the length of its part of the
Jacobian, over the unit's channels and the pixel's three:

    contribution(p)  =  sqrt( sum over channels c and colours k of  (d unit_c / d pixel_pk)^2 )

Summing the unit's channels first, as is often done, fails after a LayerNorm, which holds that sum constant: its
gradient is only rounding error. The sum of squares is estimated without bias by backward passes from the channels
weighted with random signs, at least `PASSES` of them over all photos. Each photo's contributions are divided by their
sum, so that every photo counts alike; then they are averaged.

All images are cut to one window around their middle, so that memory is bounded and the same unit is measured in all. A
field is thus a field within that window.

Shapes: H and W the window's size, h and w a map's.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from terrazzo.arguments import checked
from terrazzo.engines.modes import keeps_mode
from terrazzo.engines.torch import find_device
from terrazzo.errors import ConfigError
from terrazzo.imaging.read import ImageSource, ReadOptions, image_size
from terrazzo.interpret.figures import receptive_fields_png
from terrazzo.interpret.measures import area_holding, percent
from terrazzo.interpret.records import ReceptiveField
from terrazzo.models import Segmenter
from terrazzo.models.encoders.mit import MixTransformer
from terrazzo.models.encoders.vit import VisionTransformer
from terrazzo.ownership import refuse_foreign, write_results
from terrazzo.weights.catalog import DEFAULT_MODEL
from terrazzo.weights.files import TrainedModel
from terrazzo.weights.load import load

__all__ = ["PASSES", "ReceptiveFields", "check_window", "contributions", "receptive_fields"]

FILES = ("receptive_field.png", "receptive_field.npz")
PASSES = 8
WINDOW = 512


@dataclass(frozen=True)
class ReceptiveFields:
    """The receptive fields of a network's maps.

    Attributes:
        fields: the encoder's maps in order, then the decoder's logits.
        images: how many images they are the mean of.
        model: the model's name.
    """

    fields: tuple[ReceptiveField, ...]
    images: int
    model: str

    def table(self) -> str:
        """Return a table in text: of each map, the area that holds half and 95% of all contributions."""
        lines = [
            f"{'receptive field':<20}{'one unit':>16}{'50% in':>9}{'as a square':>14}{'95% in':>9}{'as a square':>14}"
        ]
        for field in self.fields:
            _, _, height, width = field.cell
            line = f"{field.name:<20}{f'{width:.3g} x {height:.3g} px':>16}"
            for share in (0.5, 0.95):
                area = area_holding(field.share_HW, share)
                line += f"{percent(area):>9}{f'{math.sqrt(area * field.share_HW.size):.0f} px a side':>14}"
            lines.append(line)
        return "\n".join(lines)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write receptive_field.png and receptive_field.npz, each atomically, and return their paths.

        The archive holds ``names`` of the M maps, ``shares`` (M, H, W), ``grids`` (M, 2), ``units`` (M, 2) and
        ``photos``, their number.

        Args:
            folder: where to; it is created.
            overwrite: replace any file that is there, not only earlier results.

        Raises:
            OutputError: a file is there that is not an earlier result, or the place cannot be written.
        """
        picture, numbers = (Path(folder, name) for name in FILES)
        refuse_foreign([picture, numbers], "explain", overwrite=overwrite, option="folder")
        arrays: dict[str, Any] = {
            "names": np.array([field.name for field in self.fields]),
            "shares": np.stack([field.share_HW for field in self.fields]),
            "grids": np.array([field.grid for field in self.fields]),
            "units": np.array([field.unit for field in self.fields]),
            "photos": np.array(self.images),
        }
        archive = io.BytesIO()
        np.savez_compressed(archive, **arrays)
        write_results(
            {picture: receptive_fields_png(self.fields, self.images, self.model), numbers: archive.getvalue()},
            "explain",
        )
        return [picture, numbers]


def check_window(window: int) -> None:
    """Refuse a window of no pixels."""
    if window < 1:
        raise ConfigError(f"the window is {window} pixels", fix="give at least 1", code="explain-window")


@keeps_mode
@checked
def receptive_fields(
    images: ImageSource | Sequence[ImageSource],
    model: str | Path | TrainedModel = DEFAULT_MODEL,
    *,
    window: int = WINDOW,
    device: str | None = None,
    reading: ReadOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ReceptiveFields:
    """Measure which pixels the middle of each feature map and of the logits depends on, on average over photos.

    Args:
        images: a path, encoded bytes, a PIL image or an (H, W, 3) uint8 RGB array, or a list of these.
        model: a loaded model of any kind, or what `terrazzo.load` takes.
        window: largest side, in pixels of the network's input, of the window that is cut from the middle of every
            photo. The smallest photo bounds it too. Memory grows with its square, as in training.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.
        reading: how photos are read, where files leave that open.
        progress: told how many photos are done, and of how many.

    Raises:
        ImageError: a photo cannot be read.
        CheckpointError: the model cannot be loaded.
        ConfigError: there is no photo, or the window is smaller than 1.
    """
    sources: list[Any] = list(images) if isinstance(images, (list, tuple)) else [images]
    if not sources:
        raise ConfigError("there is no photo to measure receptive fields on", fix="give at least one")
    check_window(window)
    trained = model if isinstance(model, TrainedModel) else load(model)
    reading = (reading or ReadOptions()).for_model(trained.preprocess.bands)
    network = trained.network.eval().to(find_device(device))
    sizes = [trained.preprocess.target_size(*_size(source, reading)) for source in sources]
    H, W = (min(window, *(size[axis] for size in sizes)) for axis in (0, 1))

    generator = torch.Generator().manual_seed(0)
    passes = math.ceil(PASSES / len(sources))
    names = _names(network)
    totals = [np.zeros((H, W)) for _ in names]
    places: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for number, source in enumerate(sources, 1):
        image_3HW = _middle(trained.preprocess(reading.read(source)), H, W)
        places = []
        for total, (contribution_HW, grid, unit) in zip(
            totals, contributions(network, torch.from_numpy(image_3HW[None]), passes, generator), strict=True
        ):
            total += contribution_HW / (contribution_HW.sum() or 1.0)
            places.append((grid, unit))
        if progress is not None:
            progress(number, len(sources))
    fields = tuple(
        ReceptiveField(name, (total / (total.sum() or 1.0)).astype(np.float32), grid, unit)
        for name, total, (grid, unit) in zip(names, totals, places, strict=True)
    )
    return ReceptiveFields(fields, len(sources), trained.name or trained.architecture)


def contributions(
    network: Segmenter, image_13HW: Tensor, passes: int, generator: torch.Generator
) -> list[tuple[NDArray[np.float64], tuple[int, int], tuple[int, int]]]:
    """Measure one image's contributions to the centre units of the encoder's maps and of the logits.

    Args:
        network: in evaluation mode.
        image_13HW: normalised.
        passes: backward passes for each map. A unit of no more channels than that is measured exactly, one by one.
        generator: draws the signs.

    Returns:
        For each map the (H, W) contributions, the map's size (h, w), and the row and column of the unit.
    """
    H, W = image_13HW.shape[2:]
    measured = []
    with _frozen(network), torch.inference_mode(False), torch.enable_grad():
        image = image_13HW.to(next(network.parameters())).clone().requires_grad_()
        maps = network.encoder(image.contiguous(memory_format=torch.channels_last))
        for output in [*maps, network.decoder(maps)]:
            C, h, w = output.shape[1:]
            # The unit in whose cell the middle pixel lies.
            row, column = (2 * (H // 2) + 1) * h // (2 * H), (2 * (W // 2) + 1) * w // (2 * W)
            unit_C = output[0, :, row, column]
            squares_HW = torch.zeros(H, W, dtype=torch.float64)  # on the CPU: not every device has float64
            directions = torch.eye(C) if passes >= C else _signs(passes, C, generator)
            for direction_C in directions.to(unit_C):
                (gradient,) = torch.autograd.grad(unit_C, image, direction_C, retain_graph=True)
                squares_HW += gradient[0].cpu().double().square().sum(0)
            measured.append(((squares_HW / len(directions)).sqrt().numpy(), (h, w), (row, column)))
    return measured


def _signs(passes: int, channels: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (passes, channels), generator=generator) * 2 - 1


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Keep autograd from storing what only gradients of weights would need."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _names(network: Segmenter) -> list[str]:
    encoder = network.encoder
    if isinstance(encoder, MixTransformer):
        names = [f"stage {number}" for number in encoder.emitted]
    elif isinstance(encoder, VisionTransformer):
        names = [f"block {number}" for number in encoder.layers]
    else:
        strides: Any = encoder.strides
        names = [f"map {number} (1/{stride})" for number, stride in enumerate(strides, 1)]
    return [*names, "decoder"]


def _size(source: Any, reading: ReadOptions) -> tuple[int, ...]:
    if isinstance(source, (str, Path, bytes, Image.Image)):
        return image_size(source, bands_chosen=reading.bands is not None, rule=reading.rule)
    return reading.read(source).shape[:2]  # `read` refuses all other types


def _middle(image_3HW: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    top, left = (image_3HW.shape[1] - height) // 2, (image_3HW.shape[2] - width) // 2
    return np.ascontiguousarray(image_3HW[:, top : top + height, left : left + width])

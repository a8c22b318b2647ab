"""`predict`, the public function for one image or many, and `make_predictor`, which joins a model and an engine.

torch is imported only where PyTorch runs the model, or where a model must be converted for another engine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack, overload

from terrazzo.arguments import checked
from terrazzo.data.choose_images import choose_images
from terrazzo.data.sources.address import fetch_image, is_address, refuse_address
from terrazzo.engines.auto import PYTORCH, Workload, auto_engine, engine_for_file, find_engine, gpu_at_hand, has_runtime
from terrazzo.engines.conversion_cache import WRONG, FallingBack, convert_once, is_checked, kept_conversions
from terrazzo.engines.engine import Engine, EngineOptions, EngineRecord, Precision
from terrazzo.engines.modes import keeps_mode
from terrazzo.engines.onnx_file import describe_onnx
from terrazzo.engines.precision_trial import PrecisionTrial
from terrazzo.errors import ConfigError, TerrazzoError
from terrazzo.imaging.find_images import find_images
from terrazzo.imaging.inputs import are_several
from terrazzo.imaging.read import MAX_PIXELS, ImageSource, ReadOptions
from terrazzo.inference.failure import Failure
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import Protocol, find_protocol
from terrazzo.inference.raster import rasters_among
from terrazzo.inference.result import Segmentation
from terrazzo.inference.scores import CERTAINTY, NOTHING, Keep
from terrazzo.inference.streaming import Streamed
from terrazzo.notes import note
from terrazzo.text import shown_path
from terrazzo.weights.catalog import DEFAULT_MODEL
from terrazzo.weights.exported import ExportedDescription, exported_format

if TYPE_CHECKING:
    from terrazzo.weights.files import TrainedModel

__all__ = ["RunOptions", "make_predictor", "predict", "predictor_for"]

PROBABILITIES: Keep = frozenset({"probabilities"})
Model: TypeAlias = "str | Path | TrainedModel"


class RunOptions(TypedDict, total=False):
    """How a model is run: the arguments of `make_predictor` that `predict_folder` and `predict_video` take too."""

    device: str | None
    protocol: str | Protocol
    engine: str
    threads: int | None
    precision: Precision
    compiled: bool
    trust: bool


@checked
def make_predictor(
    model: Model = DEFAULT_MODEL,
    device: str | None = None,
    protocol: str | Protocol = "whole",
    *,
    engine: str = "auto",
    threads: int | None = None,
    precision: Precision = "auto",
    compiled: bool = False,
    workload: Workload | None = None,
    trust: bool = False,
) -> Predictor:
    """Load a model into an engine, for any number of calls of `predict` and `evaluate`.

    Args:
        model: a loaded model, what `terrazzo.load` takes, or an exported file (``.onnx``, ``.xml``, ``.pt2``).
        device: ``cpu``; ``cuda``, ``cuda:1`` or the number of a GPU; ``mps`` or ``xpu``. By default the GPU that a
            loaded model is on, else a CUDA GPU where there is one.
        protocol: how images are shown to the network, or the name of a protocol.
        engine: the name of one, which `terrazzo.engines.engine.ENGINES` lists; or ``auto``, whose rules
            `terrazzo.engines.auto` lists.
        threads: computing threads; by default as many as there are cores.
        precision: ``fp32``; ``bf16`` where engine and processor have it, and masks then differ a little; or ``auto``,
            which computes the first images in both: bf16 is kept for many images on a CPU, and float16 on a GPU, where
            it finds the same classes (`engines/precision_trial.py`, `engines/gpu.py`).
        compiled: run PyTorch's network through torch.compile. For GPUs and images of few sizes: the first image of a
            size takes a minute.
        workload: what will be predicted, by default one image after the other.
        trust: open a ``.pt2`` file that was not exported on this machine, and remember it. Such a file can run any
            code, so give this only for files of people that you trust. Others' models are safe as ``.onnx``, ``.xml``
            or safetensors.

    Raises:
        ConfigError: no protocol or engine has this name, or the engine lacks an option that is asked for.
        CheckpointError: the model cannot be loaded, is not trusted, or is computed wrongly by the engine.
        MissingExtraError: the engine is not installed.
        OutputError: the cache folder, which keeps converted models, cannot be written.
    """
    protocol, chosen, workload = find_protocol(protocol), find_engine(engine), workload or Workload()
    options = replace(workload.options(threads), precision=precision)
    device = None if device is None else str(device).strip().lower()
    _refuse_contradictions(chosen, device, precision, compiled)
    if not isinstance(model, (str, Path)) and not hasattr(model, "preprocess"):
        raise ConfigError(
            f"the model is a {type(model).__name__}, which does not say its classes and preprocessing",
            fix="give what terrazzo.load returns, its name or its path; or put a network into a terrazzo.TrainedModel",
            code="model-type",
        )
    name = str(model) if isinstance(model, (str, Path)) else model.name
    wrap = partial(_predictor, name=name, protocol=protocol, streams=options.streams)

    def with_trial(exact: Engine, name: str, open_lower: Callable[[EngineOptions], Engine]) -> Engine:
        """Return an engine in float32, or where it may turn out to be better in bfloat16, in both."""
        if precision != "auto" or not workload.tries_bfloat16 or not getattr(exact, "has_bfloat16", False):
            return exact
        return PrecisionTrial(exact, open_lower(replace(options, precision="bf16")), name)

    if isinstance(model, (str, Path)) and exported_format(model) is not None:
        runs = engine_for_file(Path(model), chosen)
        _refuse_contradictions(runs, device, precision, compiled, is_exported=True)
        file = Path(model)
        opened = runs.open_file(file, options, device, trust)
        tried = with_trial(opened, runs.name, lambda lower: runs.open_file(file, lower, device, trust))
        return wrap(tried, opened.description)

    unasked = chosen is None and isinstance(model, (str, Path)) and not compiled and _on_cpu(device)
    unasked = unasked and precision != "bf16" and has_runtime()  # else nothing is looked up or hashed for it

    def best(about: TrainedModel | ExportedDescription) -> EngineRecord:
        return auto_engine(workload, about.preprocess, threads) if unasked else chosen or PYTORCH

    def run_converted(path: Path, about: ExportedDescription, source: Model) -> Predictor:
        runs = best(about)
        exact = runs.open_file(path, options, device)
        tried = with_trial(exact, runs.name, lambda lower: runs.open_file(path, lower, device))
        return wrap(FallingBack(tried, about.minimum_side, partial(_plain, source)), about)

    if isinstance(model, (str, Path)) and (unasked or (chosen or PYTORCH).runs_conversions):
        kept = kept_conversions(model)
        if kept:  # their descriptions are the same
            runs = best(about := describe_onnx(next(iter(kept.values()))))
            path = kept.get(runs.graph) if runs.runs_conversions else None
            if path is not None and is_checked(path, runs):
                return run_converted(path, about, model)

    from terrazzo.graphs.onnx import has_written_graph
    from terrazzo.weights.load import load

    trained = load(model) if isinstance(model, (str, Path)) else model
    _refuse_other_bands(trained)
    if chosen is not None and chosen.runs_conversions:
        converted = convert_once(model, trained, chosen)
        return run_converted(converted, describe_onnx(converted), trained)
    try:
        runs = best(trained)
        if runs.runs_conversions and has_written_graph(trained.network):
            converted = convert_once(model, trained, runs)
            if not workload.is_small(trained.preprocess):  # else it is for the next start: torch is here already
                return run_converted(converted, describe_onnx(converted), trained)
    except TerrazzoError as error:  # nothing is lost but speed
        if error.code == WRONG:
            note(f"{error.message}; PyTorch runs it instead. Please report this")
    runs = chosen or PYTORCH
    exact = runs.open_model(trained, options, device, compiled)
    return wrap(with_trial(exact, runs.name, lambda lower: runs.open_model(trained, lower, device, False)), trained)


def _predictor(
    engine: Engine, about: TrainedModel | ExportedDescription, *, name: str, protocol: Protocol, streams: int
) -> Predictor:
    output = about.output if isinstance(about, ExportedDescription) else "logits"
    return Predictor(
        engine,
        about.preprocess,
        about.labels,
        name,
        protocol,
        output,
        streams,
        about.record,
        temperature=about.temperature,
    )


def _refuse_other_bands(model: TrainedModel) -> None:
    """Refuse a network for more or fewer bands than its preprocessing gives, as of weights from elsewhere."""
    takes, given = model.network.in_channels, model.preprocess.in_channels
    if takes != given:
        raise ConfigError(
            f"the network of {shown_path(model.name or model.architecture)} takes {takes} bands, and its preprocessing "
            f"gives {given}",
            fix="train on from it, as in terrazzo train --weights ... --bands 1,2,3,4; or give the mean and std of "
            "each band in its preprocessor_config.json",
            code="model-bands",
        )


def _on_cpu(device: str | None) -> bool:
    return device == "cpu" or (device is None and not gpu_at_hand())


def _refuse_contradictions(
    engine: EngineRecord | None,
    device: str | None,
    precision: Precision,
    compiled: bool,
    *,
    is_exported: bool = False,
) -> None:
    if compiled and engine not in (None, PYTORCH):
        raise ConfigError(
            f"torch.compile is for PyTorch, and {engine.name} does not use it",
            fix="leave --compile out, or use --engine torch",
            code="engine-device",
        )
    if compiled and is_exported:
        raise ConfigError(
            "torch.compile is for networks with their weights, and not for exported files",
            fix="leave --compile out, or give the model that it was exported from",
            code="engine-device",
        )
    if engine is not None and engine is not PYTORCH:  # which asks the machine itself
        engine.require(precision, device)  # before half a minute goes into a conversion


def _plain(model: Model) -> Engine:
    """Open a model itself, for inputs that are too small for its conversion."""
    from terrazzo.weights.load import load

    return PYTORCH.open_model(load(model) if isinstance(model, (str, Path)) else model, EngineOptions(), "cpu")


def predictor_for(
    model: Model | Predictor,
    workload: Workload,
    started: Callable[[Predictor], None] | None,
    batch_size: int,
    **options: Unpack[RunOptions],
) -> Predictor:
    """Return a predictor, which is made where a model is given, and tell `started` of it.

    Raises:
        ConfigError: the batch size is too small, or an option is wrong.
        CheckpointError: the model cannot be loaded.
    """
    if batch_size < 1:
        raise ConfigError(f"the batch size is {batch_size}", fix="give at least 1")
    predictor = model if isinstance(model, Predictor) else make_predictor(model, workload=workload, **options)
    if started is not None:
        started(predictor)
    return predictor


@overload
def predict(
    images: ImageSource,
    model: Model | Predictor = ...,
    *,
    probabilities: bool = ...,
    confidence: bool = ...,
    device: str | None = ...,
    protocol: str | Protocol = ...,
    engine: str = ...,
    bands: tuple[int, ...] | None = ...,
    frame: int | None = ...,
    value_range: tuple[float, float] | None = ...,
    max_pixels: int = ...,
    trust: bool = ...,
    allow_download: bool = ...,
) -> Segmentation: ...
@overload
def predict(
    images: list[Any] | tuple[Any, ...] | Iterator[Any],
    model: Model | Predictor = ...,
    *,
    probabilities: bool = ...,
    confidence: bool = ...,
    device: str | None = ...,
    protocol: str | Protocol = ...,
    engine: str = ...,
    bands: tuple[int, ...] | None = ...,
    frame: int | None = ...,
    value_range: tuple[float, float] | None = ...,
    max_pixels: int = ...,
    trust: bool = ...,
    allow_download: bool = ...,
) -> list[Segmentation]: ...
@checked
@keeps_mode
def predict(
    images: ImageSource | Iterable[Any],
    model: Model | Predictor = DEFAULT_MODEL,
    *,
    probabilities: bool = False,
    confidence: bool = False,
    device: str | None = None,
    protocol: str | Protocol = "whole",
    engine: str = "auto",
    bands: tuple[int, ...] | None = None,
    frame: int | None = None,
    value_range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
    trust: bool = False,
    allow_download: bool = False,
) -> Segmentation | list[Segmentation]:
    """Segment one image, or several.

    Args:
        images: for one result a path, encoded bytes, an open file, a PIL image, an (H, W, 3) uint8 RGB array or a torch
            tensor, as `terrazzo.imaging.read.read_image` takes them; for a list of results a list or other iterable of
            these, in which paths may also be folders and glob patterns; and web addresses, with `allow_download`.
        model: a loaded model, what `terrazzo.load` takes, an exported file, or a predictor from `make_predictor`,
            which has its device, protocol and engine already.
        probabilities: keep the (K, H, W) class probabilities with the mask.
        confidence: keep the (H, W) probability of each pixel's class, and the entropy of its probabilities.
        device: as `make_predictor` takes it; by default a GPU where there is one.
        protocol: how images are shown to the network: by default whole; "slide" for windows, by which large images
            need less memory; "multi-scale" for the mean of twelve views; or one of the papers'.
        engine: ``auto``, or the name of one, as `make_predictor` takes it.
        bands: which bands of a TIFF are red, green and blue, or the one that is grey, counted from 1.
        frame: which frame or page to take of files that have several, from 0.
        value_range: the values that are black and white in images of more than 8 bits, and in arrays and tensors of
            floating point: (0, 1) or (0, 255).
        max_pixels: images with more are refused, or read in windows where file and protocol allow it.
        trust: open a ``.pt2`` file that was not exported on this machine; see `make_predictor`.
        allow_download: fetch images that are given by their web address.

    Returns:
        A `Segmentation` whose mask has the image's own size, or a list of them.

    Raises:
        ImageError: an image is missing or cannot be read.
        CheckpointError: the model cannot be loaded.
        ConfigError: no protocol or engine has this name, or the engine lacks an option that is asked for.
        MissingExtraError: the engine is not installed.
    """
    reading = ReadOptions(bands, frame, value_range, max_pixels)
    keep = PROBABILITIES if probabilities else NOTHING
    keep |= CERTAINTY if confidence else NOTHING
    several = are_several(images)
    sources: list[Any] = list(images) if several else [images]  # type: ignore[arg-type]
    sources = [_fetched(source, allow_download) if is_address(source) else source for source in sources]
    are_files = several and all(isinstance(source, (str, os.PathLike)) for source in sources)
    paths = choose_images(sources)[0] if are_files else []
    if isinstance(model, Predictor):
        predictor = model
    else:
        workload = Workload.of(paths) if are_files else Workload(max(len(sources), 1))
        predictor = make_predictor(model, device, protocol, engine=engine, workload=workload, trust=trust)
    reading = predictor.reading(reading)
    if not are_files:
        found = _each(sources) if several else iter(sources)
        results = [_segmented(source, predictor, reading, keep) for source in found]
        return results if several else results[0]
    return list(_of_files(paths, predictor, reading, keep))


def _fetched(address: str, is_allowed: bool) -> bytes:
    if not is_allowed:
        raise refuse_address(address)
    return fetch_image(address)


def _each(sources: list[Any]) -> Iterator[Any]:
    """Images as they are, and the files that paths stand for."""
    for source in sources:
        yield from find_images(source) if isinstance(source, (str, os.PathLike)) else [source]


def _segmented(source: Any, predictor: Predictor, reading: ReadOptions, keep: Keep) -> Segmentation:
    if isinstance(source, (str, os.PathLike)):
        return next(_of_files([Path(os.fsdecode(source))], predictor, reading, keep))
    if hasattr(source, "read_window"):
        outcome, said = predictor.segment_source(source, reading.max_pixels, keep=keep)
    else:
        outcome, said = predictor.segment_alone(reading.read(source), keep=keep)
    if said:
        note(said)
    return next(_results([outcome], keep))


def _of_files(paths: list[Path], predictor: Predictor, reading: ReadOptions, keep: Keep) -> Iterator[Segmentation]:
    rasters = rasters_among(paths, reading)
    return _results(predictor.segment_files(paths, keep=keep, reading=reading, rasters=rasters), keep)


def _results(outcomes: Iterable[Segmentation | Streamed | Failure], keep: Keep) -> Iterator[Segmentation]:
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise outcome.error
        yield outcome.whole(keep) if isinstance(outcome, Streamed) else outcome

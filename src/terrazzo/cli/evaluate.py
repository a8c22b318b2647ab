"""`terrazzo evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from terrazzo.cli.origin import tell_origin
from terrazzo.cli.progress import progress_bar
from terrazzo.files import write_atomic
from terrazzo.inference.protocols import WHOLE, find_protocol
from terrazzo.weights.catalog import DEFAULT_MODEL

__all__ = ["evaluate"]


def evaluate(
    *,
    data: Annotated[Path, Parameter(name=["--data", "-d"])],
    split: str = "val",
    model: Annotated[str, Parameter(name=["--model", "-m"])] = DEFAULT_MODEL,
    labels: str | None = None,
    only: str | None = None,
    protocol: str = WHOLE.name,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    json: Path | None = None,
    device: str | None = None,
) -> None:
    """Measure a model on labelled photos: mIoU, mAcc, aAcc, per-class values, boundary IoU.

    Examples:
        terrazzo evaluate --data my-folder --split val --model runs/mine
        terrazzo evaluate --data camvid --model segformer_b0.camvid --output report
        terrazzo evaluate --data my-folder --model runs/mine --protocol multi-scale

    Parameters
    ----------
    data
        The data set's folder.
    split
        Which split of it.
    model
        Shipped model, model folder, output folder of a training run, checkpoint file, or hub id.
    labels
        A bundled class list (such as camvid), for a folder that does not say what its classes are.
    only
        A pattern in quotes: only photos whose name matches it.
    protocol
        How photos are shown to the network: whole, slide, multi-scale, or a paper's, such as segformer-ade20k.
    output
        Folder for the report: JSON, table, per-class chart, confusion matrix.
    json
        File for the report as JSON.
    device
        cpu or cuda; by default a GPU where there is one.
    """
    procedure = find_protocol(protocol)  # before torch is imported, so that a mistyped name is told at once

    from terrazzo.data import find_layout
    from terrazzo.engines.torch import keep_freed_memory
    from terrazzo.evaluation.evaluator import evaluate as measure
    from terrazzo.weights.load import load

    keep_freed_memory()
    print(f"{data}: taken for {find_layout(data).name}")
    trained = load(model)
    tell_origin(trained)
    with progress_bar("evaluate") as progress:
        report = measure(
            trained,
            data,
            split=split,
            labels=labels,
            only=only,
            protocol=procedure,
            device=device,
            progress=progress,
        )
    print(report.table())
    if output is not None:
        report.save(output)
        print(f"report written to {output}")
    if json is not None:
        write_atomic(json, report.to_json().encode("utf-8", "backslashreplace"))

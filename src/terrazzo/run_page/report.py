"""`report`: write the page of a run again, or for the first time for runs of earlier versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from terrazzo.arguments import checked
from terrazzo.evaluation.evaluator import measure
from terrazzo.evaluation.labelled_split import labelled_split
from terrazzo.inference.predict import make_predictor
from terrazzo.ownership import refuse_foreign, write_result
from terrazzo.run_page.page import PAGE_FILE, RunFiles, run_page
from terrazzo.run_page.photos import PHOTOS_FILE, photos_json

__all__ = ["report"]


@checked
def report(
    run: str | Path,
    data: str | Path | None = None,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the report of a run as one HTML file: curves, scores, confusion matrix, best and worst photos, settings.

    Args:
        run: the run's folder, finished or not.
        data: the data set's folder, to choose the best and worst photos anew; by default those that the run has kept.
        output: the file to write; by default ``report.html`` in the run's folder.
        overwrite: replace any file that is there.
        progress: called with (photos done, photos in all).

    Returns:
        The file.

    Raises:
        ConfigError: there is no such run.
        OutputError: a file is there that is not an earlier report, or the place cannot be written.
        DatasetError: the data set cannot be read.
        CheckpointError: the run's model cannot be loaded.
    """
    folder = Path(run)
    page = folder / PAGE_FILE if output is None else Path(output)
    RunFiles.read(folder)  # before anything is computed
    refuse_foreign([page], "train", overwrite=overwrite)
    if data is not None:
        photos = folder / "report" / PHOTOS_FILE
        refuse_foreign([photos], "train", overwrite=overwrite)
        predictor = make_predictor(folder, precision="fp32")
        dataset = labelled_split(predictor, data, "val")
        _, scores = measure(predictor, dataset, Path(data).resolve().name, progress=progress)
        write_result(photos, photos_json(predictor, dataset, scores), "train")
    write_result(page, run_page(RunFiles.read(folder)), "train")
    return page

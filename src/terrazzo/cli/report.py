"""`terrazzo report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from terrazzo.cli.progress import progress_bar
from terrazzo.cli.say import say
from terrazzo.text import shown_path

__all__ = ["report"]


def report(
    run: Path,
    /,
    *,
    data: Annotated[Path | None, Parameter(name=["--data", "-d"])] = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Write the report of a training run as one HTML file.

    It holds curves, scores by class, the confusion matrix, the best and worst photos, settings and environment, and
    needs nothing else. A finished run has it already, as report.html: this writes it for a run that still goes on, or
    one of an earlier version.

    Examples:
        terrazzo report runs/mine
        terrazzo report runs/old --data my-folder

    Parameters
    ----------
    run
        Read this output folder of a training run.
    data
        Choose the best and worst photos from this data set's validation photos; by default those are shown that
        the run has kept.
    output
        Write this file; by default report.html in the run's folder.
    overwrite
        Replace the file even if it is not such a report.
    """
    from terrazzo.run_page.report import report as write

    with progress_bar("report") as progress:
        page = write(run, data, output=output, overwrite=overwrite, progress=progress)
    say(f"written to {shown_path(page)}")

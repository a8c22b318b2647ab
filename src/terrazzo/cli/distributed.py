"""`terrazzo predict --ray`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from terrazzo.cli.progress import progress_bar
from terrazzo.cli.say import say
from terrazzo.errors import ConfigError

__all__ = ["predict_with_ray"]


def predict_with_ray(
    images: Sequence[str],
    output: Path,
    model: str,
    given: Mapping[str, object],
    skip_bad: bool,
    *,
    save: str | None,
    threads: int | None,
    **options: Any,
) -> None:
    """Run `terrazzo.distributed.predict`, and say what became of the photos.

    Args:
        images: of the command.
        output: likewise.
        model: likewise.
        given: options that workers do not have, with their values.
        skip_bad: whether the command succeeds although photos failed.
        save: kinds of files; by default mask and json.
        threads: of a worker; by default one.
        options: of `terrazzo.distributed.predict`.

    Raises:
        ConfigError: an option is given that workers do not have (code "usage").
    """
    from terrazzo.distributed import predict

    if there := [name for name, value in given.items() if value not in (None, False)]:
        raise ConfigError(f"{there[0]} is not there with --ray", fix="leave one of the two out", code="usage")
    with progress_bar("predict") as bar:
        done = predict(images, output, model, save=save or "mask,json", threads=threads or 1, progress=bar, **options)
    failed = f", {done.failures} failed" if done.failures else ""
    earlier = f"; {done.skipped} blocks were done before" if done.skipped else ""
    say(f"{done.images} of {done.images + done.failures} photos done{failed}{earlier}; a row for each in {done.report}")
    if done.failures and not (skip_bad and done.images):
        sys.exit(2)

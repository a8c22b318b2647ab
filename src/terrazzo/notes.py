"""Notes: what a user should know although nothing failed, such as classes that were matched by name.

In Python a note is a warning of the class `TerrazzoWarning`, for `warnings.filterwarnings`; the command line prints it
as one line that begins with ``note:``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from terrazzo.text import printable

__all__ = ["TerrazzoWarning", "note", "notes_printed"]


class TerrazzoWarning(UserWarning):
    """Something worth knowing that stops nothing."""


def note(message: str) -> None:
    """Tell the user something that stops nothing; each text is told once where warnings are shown once."""
    warnings.warn(message, TerrazzoWarning, stacklevel=3)


@contextmanager
def notes_printed(reworded: Callable[[str], str] = str) -> Iterator[None]:
    """Print every note of the block to stderr, each text once, in place of Python's warning with its source line.

    Args:
        reworded: what is printed for a text.
    """
    said: set[str] = set()
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: object, **named: object) -> None:
        if not issubclass(category, TerrazzoWarning):
            usual(message, category, *rest, **named)  # type: ignore[arg-type]
        elif str(message) not in said:
            said.add(str(message))
            print(f"note: {printable(reworded(str(message)))}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", TerrazzoWarning)
        warnings.showwarning = show
        yield

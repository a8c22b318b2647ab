"""Printing: all that the command says goes through here, so that no name or text from outside can forge a line or send
control characters to the terminal."""

from __future__ import annotations

import sys

from terrazzo.text import printable

__all__ = ["say"]

LONGEST = 2000  # characters of a line


def say(*lines: str, error: bool = False) -> None:
    """Print lines, each of which stays one: line breaks inside become spaces, and control characters are escaped.

    Args:
        lines: what to print. A text of several lines is given as ``*text.split("\\n")``.
        error: print to stderr.
    """
    for line in lines:
        shown = printable(line)
        if len(shown) > LONGEST:
            shown = f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 2 :]}"
        print(shown, file=sys.stderr if error else sys.stdout)

"""The `terrazzo` command: finds the verb, runs its function, and turns failures into two lines and exit status 2.

A verb's module is imported only when that verb is asked for, so `terrazzo --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from terrazzo import __version__
from terrazzo.errors import TerrazzoError

__all__ = ["VERBS", "main"]

VERBS = {
    "predict": ("terrazzo.cli.predict", "turn photos into masks and pictures"),
    "train": ("terrazzo.cli.train", "train a model on a folder of photos and masks"),
    "evaluate": ("terrazzo.cli.evaluate", "measure a model on labelled photos"),
    "check-data": ("terrazzo.cli.check_data", "look through a data set and list what is wrong with it"),
    "models": ("terrazzo.cli.models", "list the models, their sizes, scores and licences"),
}

HELP = """\
Terrazzo: transformer semantic segmentation for people who have to ship it.

Usage: terrazzo COMMAND [OPTIONS]

Commands:
{verbs}

Examples:
  terrazzo predict street.jpg
  terrazzo predict photos/ --model runs/mine --output masks
  terrazzo check-data my-folder
  terrazzo train --data my-folder --model segformer_b0 --output runs/mine
  terrazzo evaluate --data my-folder --split val --model runs/mine

`terrazzo COMMAND --help` shows a command's options; `terrazzo --version` the version.
"""

FAILED = 2
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: what follows the program's name; by default the process's own.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(HELP.format(verbs="\n".join(f"  {verb:<12}{text}" for verb, (_, text) in VERBS.items())), end="")
        return
    verb, *options = arguments
    if verb in ("--version", "-V"):
        print(f"terrazzo {__version__}")
        return
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        _fail("usage", f"there is no command {verb!r}", f"did you mean {near[0]}?" if near else "see `terrazzo --help`")
    try:
        _run(verb, options)
    except TerrazzoError as error:
        _fail(error.code, error.message, error.fix)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has left; point stdout elsewhere so that Python's last flush does not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _run(verb: str, options: list[str]) -> None:
    from cyclopts import App, CycloptsError

    function = getattr(import_module(VERBS[verb][0]), verb.replace("-", "_"))
    app = App(name=f"terrazzo {verb}", help_format="plaintext", version_flags=[])
    app.default(function)
    try:
        app(options, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _fail("usage", " ".join(str(error).split()), f"see `terrazzo {verb} --help`")


def _fail(code: str, message: str, fix: str) -> None:
    """Print what is wrong and what to do about it, and leave with status 2."""
    for line in (f"error[{code}]: {message}", f"  fix: {fix}"):
        # File names may hold bytes that are no text; escapes keep the message printable everywhere.
        print(line.encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
    sys.exit(FAILED)


if __name__ == "__main__":
    main()

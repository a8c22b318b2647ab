"""The `terrazzo` command: finds the verb, runs its function, and turns failures into two lines and exit status 2.

What a user can cause ends in two lines; any other exception is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import io
import os
import re
import sys
from typing import NoReturn

from terrazzo import __version__
from terrazzo.cli.advice import fitting
from terrazzo.cli.say import say
from terrazzo.cli.stopping import stopped_cleanly
from terrazzo.cli.verbs import VERBS, verb_app
from terrazzo.engines.memory import is_out_of_memory
from terrazzo.errors import TerrazzoError
from terrazzo.notes import notes_printed
from terrazzo.text import nearest

__all__ = ["main"]

HELP = """\
Terrazzo: transformer semantic segmentation for people who have to ship it.

Usage: terrazzo COMMAND [OPTIONS]

Commands:
{verbs}

Examples:
  terrazzo predict --example
  terrazzo predict street.jpg
  terrazzo predict photos/ --model runs/mine --output masks
  terrazzo check-data my-folder
  terrazzo train --data my-folder --model segformer_b0 --output runs/mine
  terrazzo evaluate --data my-folder --split val --model runs/mine

`terrazzo COMMAND --help` shows a command's options; `terrazzo --version` the version.
"""

EMPTY = re.compile("--[a-z-]+=")
FAILED = 2
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: what follows the program's name; by default the process's own.
    """
    for stream in (sys.stdout, sys.stderr):
        # File names may hold bytes that are not text, and terminals may lack letters: escapes print everywhere.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if arguments is None else arguments
    verb = arguments[0] if arguments and arguments[0] in VERBS else None
    try:
        with notes_printed(lambda text: text if verb is None else fitting(text, verb)), stopped_cleanly():
            _run(arguments)
        sys.stdout.flush()
    except TerrazzoError as error:
        _fail(error.code, error.message, error.fix if verb is None else fitting(error.fix, verb))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has left; point stdout elsewhere so that Python's last flush does not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        _fail("memory", "there is not enough memory", "use smaller photos or a machine with more memory")


def _run(arguments: list[str]) -> None:
    verb, *options = arguments or ["--help"]
    if verb == "help":
        verb, *options = [*options, "--help"]
    if verb in ("--help", "-h"):
        verbs = "\n".join(f"  {verb:<12}{text}" for verb, (_, text) in VERBS.items())
        say(*HELP.format(verbs=verbs).removesuffix("\n").split("\n"))
    elif verb in ("--version", "-V"):
        say(f"terrazzo {__version__}")
    elif verb in VERBS:
        _run_verb(verb, options)
    else:
        _fail("usage", f"there is no command {verb!r}", _suggestion(verb))


def _run_verb(verb: str, options: list[str]) -> None:
    from cyclopts import CycloptsError

    if empty := [option for option in options if not option or EMPTY.fullmatch(option)]:
        # A shell writes so where a variable has no value, and an empty path would mean the current folder.
        _fail("usage", f"{empty[0].rstrip('=') or 'an argument'} is empty", "give a value, or leave the option out")
    try:
        verb_app(verb)(options, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        dashed = next((option for option in options if option.startswith("-") and os.path.lexists(option)), None)
        hint = "" if dashed is None else f"to name the file, write ./{dashed} or put it behind --; else "
        _fail("usage", str(error), f"{hint}see `terrazzo {verb} --help`")


def _suggestion(verb: str) -> str:
    if near := nearest(verb, VERBS):
        return f"did you mean {near}?"
    if os.path.exists(verb):
        return f"to segment it, run `terrazzo predict {verb}`"
    return f"choose one of {', '.join(VERBS)}; see `terrazzo --help`"


def _fail(code: str, message: str, fix: str) -> NoReturn:
    """Print what is wrong and what to do about it, and leave with status 2."""
    say(f"error[{code}]: {message}", f"  fix: {fix}", error=True)
    sys.exit(FAILED)


if __name__ == "__main__":
    main()

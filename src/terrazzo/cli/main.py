"""The `terrazzo` command: finds the verb, runs its function, and turns failures into two lines and exit status 2.

A verb's module is imported only when that verb is asked for, so `terrazzo --help` answers at once. What a user can
cause ends in two lines; any other exception is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import inspect
import io
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from terrazzo import __version__
from terrazzo.arguments import checked
from terrazzo.cli.say import say
from terrazzo.cli.stopping import stopped_cleanly
from terrazzo.engines.memory import is_out_of_memory
from terrazzo.errors import TerrazzoError
from terrazzo.notes import notes_printed
from terrazzo.text import nearest

if TYPE_CHECKING:
    from cyclopts import App, Token

__all__ = ["VERBS", "main", "verb_app"]

VERBS = {
    "predict": ("terrazzo.cli.predict", "turn photos into masks and pictures"),
    "train": ("terrazzo.cli.train", "train a model on a folder of photos and masks"),
    "evaluate": ("terrazzo.cli.evaluate", "measure a model on labelled photos"),
    "calibrate": ("terrazzo.cli.calibrate", "make a model's probabilities as high as it is often right"),
    "check-data": ("terrazzo.cli.check_data", "look through a data set and list what is wrong with it"),
    "compare": ("terrazzo.cli.compare", "compare two models on the same labelled photos"),
    "export": ("terrazzo.cli.export", "write a model as a file for ONNX Runtime, OpenVINO or torch.export"),
    "convert": ("terrazzo.cli.convert", "read any known checkpoint and write it for Terrazzo or transformers"),
    "benchmark": ("terrazzo.cli.benchmark", "measure how fast a model runs here, engine by engine"),
    "explain": ("terrazzo.cli.explain", "show what a model looks at in a photo"),
    "ablate": ("terrazzo.cli.ablate", "put the papers' claims to the test: train variants alike and compare them"),
    "serve": ("terrazzo.cli.serve", "serve models over HTTP"),
    "demo": ("terrazzo.cli.serve", "serve a page where people can try models"),
    "models": ("terrazzo.cli.models", "list the models, their sizes, scores and licences"),
}

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
    try:
        with notes_printed(), stopped_cleanly():
            _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except TerrazzoError as error:
        _fail(error.code, error.message, error.fix)
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


def verb_app(verb: str) -> App:
    """Return the parser of a verb's options, made from its function's signature and docstring."""
    from cyclopts import App, Parameter

    function = getattr(import_module(VERBS[verb][0]), verb.replace("-", "_"))
    description, examples = _help_texts(function)
    app = App(
        name=f"terrazzo {verb}",
        help=description,
        help_epilogue=examples,
        help_format="plaintext",
        version_flags=[],
        group_commands="Options",  # where --help is listed
        group_parameters="Options",
        default_parameter=Parameter(negative=(), show_default=_shown_default, converter=_converted),
        result_action="return_value",
    )
    command = checked(function)
    command.__doc__ = _on_one_line_each(inspect.getdoc(function) or "")
    app.default(command)
    return app


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


def _converted(kind: Any, tokens: Sequence[Token]) -> Any:
    """Read an option's words as its type; cyclopts alone would round 2.5 to a whole number in silence."""
    from cyclopts import convert

    if kind is int or int in get_args(kind):
        for token in tokens:
            if "." in token.value:
                raise ValueError(f"{token.value!r} is not a whole number")
    return convert(kind, tokens)


def _suggestion(verb: str) -> str:
    if near := nearest(verb, VERBS):
        return f"did you mean {near}?"
    if os.path.exists(verb):
        return f"to segment it, run `terrazzo predict {verb}`"
    return f"choose one of {', '.join(VERBS)}; see `terrazzo --help`"


def _shown_default(value: object) -> str | None:
    """A flag that is not given is off: that need not be said."""
    return None if value is None or value is False else str(value)


def _help_texts(function: object) -> tuple[str, str]:
    """Return what a function's docstring says before its options, and its examples, one a line as it has them."""
    text = (inspect.getdoc(function) or "").partition("\n\nParameters\n---")[0]
    description, _, examples = text.partition("\n\nExamples:\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in description.split("\n\n")]
    return "\n\n".join(paragraphs), f"Examples:\n{examples}"


def _on_one_line_each(text: str) -> str:
    """Join the lines of each option's text, whose ends a help text would keep."""
    lines: list[str] = []
    for line in text.split("\n"):
        if line.startswith("    ") and lines and lines[-1].startswith("    "):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines)


def _fail(code: str, message: str, fix: str) -> NoReturn:
    """Print what is wrong and what to do about it, and leave with status 2."""
    say(f"error[{code}]: {message}", f"  fix: {fix}", error=True)
    sys.exit(FAILED)


if __name__ == "__main__":
    main()

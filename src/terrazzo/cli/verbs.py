"""The verbs of the command line, and the parser of each one's options.

A verb's module is imported only when that verb is asked for, so `terrazzo --help` answers at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args

from terrazzo.arguments import checked

if TYPE_CHECKING:
    from cyclopts import App, Token

__all__ = ["VERBS", "options_of", "verb_app"]

VERBS = {
    "predict": ("terrazzo.cli.predict", "turn photos into masks and pictures"),
    "train": ("terrazzo.cli.train", "train a model on a folder of photos and masks"),
    "pretrain": ("terrazzo.cli.pretrain", "train an encoder on photos without masks, to start from"),
    "average": ("terrazzo.cli.average", "average the weights of several runs, kept if better on validation photos"),
    "evaluate": ("terrazzo.cli.evaluate", "measure a model on labelled photos"),
    "report": ("terrazzo.cli.report", "write the report of a training run as one HTML file"),
    "calibrate": ("terrazzo.cli.calibrate", "make a model's probabilities as high as it is often right"),
    "check-data": ("terrazzo.cli.check_data", "look through a data set and list what is wrong with it"),
    "check-labels": ("terrazzo.cli.check_labels", "find the masks that are most likely wrong"),
    "suggest": ("terrazzo.cli.suggest", "choose the photos to label next, with masks to correct"),
    "compare": ("terrazzo.cli.compare", "compare two models on the same labelled photos"),
    "export": ("terrazzo.cli.export", "write a model as a file for ONNX Runtime, OpenVINO or torch.export"),
    "convert": ("terrazzo.cli.convert", "read any known checkpoint and write it for Terrazzo or transformers"),
    "push": ("terrazzo.cli.push", "send a model to the Hugging Face hub"),
    "benchmark": ("terrazzo.cli.benchmark", "measure how fast a model runs here, engine by engine"),
    "explain": ("terrazzo.cli.explain", "show what a model looks at in a photo"),
    "ablate": ("terrazzo.cli.ablate", "put the papers' claims to the test: train variants alike and compare them"),
    "serve": ("terrazzo.cli.serve", "serve models over HTTP"),
    "demo": ("terrazzo.cli.serve", "serve a page where people can try models"),
    "check-weights": ("terrazzo.cli.check_weights", "compare NVIDIA's weights with logits that were published"),
    "models": ("terrazzo.cli.models", "list the models, their sizes, scores and licences"),
}


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


@cache
def options_of(verb: str) -> frozenset[str]:
    """Return the names of a verb's options."""
    arguments = verb_app(verb).assemble_argument_collection()
    return frozenset(name for argument in arguments for name in argument.names)


def _converted(kind: Any, tokens: Sequence[Token]) -> Any:
    """Read an option's words as its type; cyclopts alone would round 2.5 to a whole number in silence."""
    from cyclopts import convert

    if kind is int or int in get_args(kind):
        for token in tokens:
            if "." in token.value:
                raise ValueError(f"{token.value!r} is not a whole number")
    return convert(kind, tokens)


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

"""Advice in messages, made to fit the command that shows it: the same error may come from several commands."""

from __future__ import annotations

import re

from terrazzo.cli.verbs import VERBS, options_of

__all__ = ["fitting"]

OPTION = re.compile(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*")


def fitting(advice: str, verb: str) -> str:
    """Say of options that a command does not have which commands have them, unless the advice names one of these.

    Args:
        advice: a note or a fix.
        verb: the command that shows it.
    """
    missing: dict[tuple[str, ...], list[str]] = {}
    for option in dict.fromkeys(OPTION.findall(advice)):
        if option in options_of(verb):
            continue
        having = tuple(other for other in VERBS if option in options_of(other))
        if having and not re.search(rf"(?<![\w-])({'|'.join(having)})(?![\w-])", advice):
            missing.setdefault(having, []).append(option)
    told = [
        f"`terrazzo {verb}` has no {_listed(options, 'or')}, unlike {_listed([*having], 'and')}"
        for having, options in missing.items()
    ]
    return "; ".join([advice, *told])


def _listed(words: list[str], last: str) -> str:
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))

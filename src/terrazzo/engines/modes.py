"""Leaving a network that somebody is training in the mode that it was in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = ["keeps_mode"]

P = ParamSpec("P")
R = TypeVar("R")


def keeps_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Put every module of the loaded model that a function takes as `model` back into its own mode afterwards.

    Networks run in evaluation mode. A training loop that predicts in between would go on in it: without dropout, and
    with BatchNorm's statistics frozen. Modules keep their modes one by one, for a part may be frozen on purpose.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def keeping(*args: P.args, **kwargs: P.kwargs) -> R:
        network = getattr(signature.bind(*args, **kwargs).arguments.get("model"), "network", None)
        training = [] if network is None else [module for module in network.modules() if module.training]
        try:
            return function(*args, **kwargs)
        finally:
            for module in training:
                module.training = True

    return keeping

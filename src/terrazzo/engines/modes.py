"""A decorator that restores a network's training or evaluation mode."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

__all__ = ["evaluating", "keeps_mode"]

P = ParamSpec("P")
R = TypeVar("R")


def keeps_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that each module of its argument `model` is put back into its own mode afterwards.

    Networks predict in evaluation mode. Without this, a training loop that predicts in between would go on without
    dropout and with BatchNorm's statistics frozen. Each module's mode is restored, since a part may be frozen on
    purpose.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def keeping(*args: P.args, **kwargs: P.kwargs) -> R:
        with evaluating(signature.bind(*args, **kwargs).arguments.get("model")):
            return function(*args, **kwargs)

    return keeping


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put the network of a loaded model into evaluation mode, and every module back into its own mode afterwards."""
    network = getattr(model, "network", None)
    training = [] if network is None else [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True

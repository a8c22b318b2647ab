"""A decorator that restores a network's training or evaluation mode."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = ["keeps_mode"]

P = ParamSpec("P")
R = TypeVar("R")


def keeps_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that each module of its argument `model` has its own mode again afterwards.

    Networks predict in evaluation mode. Without this, a training loop that predicts in between would go on without
    dropout and with BatchNorm's statistics frozen. Each module's mode is restored, since a part may be frozen on
    purpose.
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

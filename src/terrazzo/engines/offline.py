"""Packages that report their use to their makers, imported so that they do not.

ONNX Runtime from 1.32 on notes an identifier of the machine in the user's cache folder and sends events when it is
imported; NNCF sends events of every quantisation. Who wants that sets the variables otherwise.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

__all__ = ["imported_silently"]

SWITCHES = {"onnxruntime": ("ORT_DISABLE_TELEMETRY", "1"), "nncf": ("NNCF_CI", "1")}


def imported_silently(module: str) -> Any:
    """Import a package, or a module of it, without its reports; the environment stays as it is.

    Raises:
        ImportError: it is not installed.
    """
    variable, value = SWITCHES[module.partition(".")[0]]
    is_set = variable in os.environ
    os.environ.setdefault(variable, value)
    try:
        return import_module(module)
    finally:
        if not is_set:
            del os.environ[variable]

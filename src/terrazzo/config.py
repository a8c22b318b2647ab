"""Reading YAML files and naming what is wrong in them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from terrazzo.errors import ConfigError
from terrazzo.text import nearest

__all__ = ["read_yaml_mapping", "refuse_unknown_keys"]


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds something else than a mapping of names.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", fix="give the path of a YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}", fix="correct the line it names") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path} does not hold `name: value` lines", fix="start from one of the files under recipes/")
    return values


def refuse_unknown_keys(keys: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise a ConfigError that names the first key nobody reads, and the nearest one that exists."""
    known = list(known)
    for key in keys:
        if key not in known:
            near = nearest(key, known)
            hint = f"did you mean {near!r}? " if near else ""
            raise ConfigError(
                f"{where} has an unknown key {key!r}", fix=f"{hint}known keys: {', '.join(sorted(known))}"
            )

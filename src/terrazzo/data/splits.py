"""Seeded split of a data set into train and val, by photos or by groups of photos that stay together."""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from terrazzo.data.dataset import Sample
from terrazzo.data.name_affixes import same_name
from terrazzo.errors import ConfigError
from terrazzo.fields import refuse_missing, refuse_unknown
from terrazzo.text import list_names, show

__all__ = ["SplitRule"]


LARGEST_SEED = 2**63
ENDLESS = re.compile(r"[+*}][^()]*\)[+*{]")  # a repetition of a group that repeats, for which matching may never end


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """How photos are split into train and val: by a seeded order of their names, alike on every machine.

    Attributes:
        val: share of the photos to validate on.
        group_by: regular expression from the beginning of a photo's name without its ending. Photos for which it
            matches the same text (its first group, if it has one) stay together. None for single photos.
        seed: of the order.

    Raises:
        ConfigError: a share or an expression that cannot be used.
    """

    val: float
    group_by: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        is_number = isinstance(self.val, int | float) and not isinstance(self.val, bool)
        if not is_number or not math.isfinite(self.val) or not 0 < self.val < 1:
            raise ConfigError(
                f"the share to validate on is {show(self.val)}", fix="give one such as 0.1", code="split-rule"
            )
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or abs(self.seed) > LARGEST_SEED:
            raise ConfigError(f"the split's seed is {show(self.seed)}", fix="give a whole number", code="split-rule")
        if self.group_by is not None:
            if not isinstance(self.group_by, str) or len(self.group_by) > 200 or ENDLESS.search(self.group_by):
                raise ConfigError(
                    f"{show(self.group_by)} is too long, or repeats what repeats, which may take for ever",
                    fix="give a short expression, such as '[^_]+' for all up to the first _",
                    code="split-rule",
                )
            try:
                re.compile(self.group_by)
            except (re.error, TypeError, RecursionError, OverflowError) as error:
                raise ConfigError(
                    f"{show(self.group_by)} is not a regular expression: {error}",
                    fix="give one that matches the beginning of names, such as '[^_]+' for all up to the first _",
                    code="split-rule",
                ) from error

    @classmethod
    def of_options(cls, val: float | None, group_by: str | None) -> SplitRule | None:
        """Make a rule of what a command was given, if it was given any."""
        if val is None and group_by is not None:
            raise ConfigError(
                "--group-by groups what --val splits, and there is no --val", fix="add --val 0.1", code="split-rule"
            )
        return None if val is None else cls(val=val, group_by=group_by)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SplitRule:
        """Read what `dataclasses.asdict` gives."""
        refuse_unknown(values, ("val", "group_by", "seed"), "`split`")
        refuse_missing(values, ["val"], "`split`", fix="write `split: {val: 0.1}`", code="split-rule")
        return cls(**values)

    def divide(self, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Return what to learn from and what to validate on, each in the given order.

        Raises:
            ConfigError: there are fewer than two groups, or `group_by` matches not all names.
        """
        groups: dict[str, list[Sample]] = defaultdict(list)
        for sample in samples:
            groups[self._group(sample)].append(sample)
        unmatched = [sample.name for sample in groups.pop("", [])]
        if unmatched:
            raise ConfigError(
                f"{show(self.group_by)} does not match {list_names(unmatched)}",
                fix="give an expression that matches the beginning of every photo's name",
                code="split-rule",
            )
        if len(groups) < 2:
            what = "photos" if self.group_by is None else f"groups by {show(self.group_by)}"
            raise ConfigError(
                f"{len(groups)} {what}: they cannot be split into train and val",
                fix="add photos, or group them by more of their names",
                code="split-rule",
            )
        chosen: set[str] = set()
        wanted, taken = self.val * len(samples), 0
        ordered = sorted(groups, key=self._place)
        for name in ordered[:-1]:  # at least one group is left to learn from
            size = len(groups[name])
            if not chosen or abs(taken + size - wanted) < abs(taken - wanted):
                chosen.add(name)
                taken += size
        val = [sample for sample in samples if self._group(sample) in chosen]
        return [sample for sample in samples if self._group(sample) not in chosen], val

    def told(self, samples: Sequence[Sample]) -> str:
        """Say what it makes of these photos."""
        train, val = self.divide(samples)
        by = "photos" if self.group_by is None else f"groups by {show(self.group_by)}"
        groups = len({self._group(sample) for sample in val}), len({self._group(sample) for sample in samples})
        counted = "" if self.group_by is None else f" ({groups[0]} of {groups[1]} groups)"
        return f"split by seed {self.seed}, in {by}: {len(train)} photos in train, {len(val)} in val{counted}"

    def _group(self, sample: Sample) -> str:
        name = same_name(sample.name)
        if self.group_by is None:
            return name
        match = re.match(self.group_by, name)
        return "" if match is None else (match[1] if match.re.groups else match[0]) or ""

    def _place(self, group: str) -> bytes:
        return hashlib.blake2b(f"{self.seed}/{group}".encode("utf-8", "surrogateescape"), digest_size=8).digest()

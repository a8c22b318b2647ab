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

__all__ = ["SplitRule", "check_group_by", "groups_of"]


LARGEST_SEED = 2**63
MOST_FOLDS = 100
ENDLESS = re.compile(r"[+*}][^()]*\)[+*{]")  # a repetition of a group that repeats, for which matching may never end


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """How photos are split into train and val: by a seeded order of their names, alike on every machine.

    Attributes:
        val: share of the photos to validate on.
        group_by: regular expression from the beginning of a photo's name without its ending. Photos for which it
            matches the same text (its first group, if it has one) stay together. None for single photos.
        seed: of the order.
        folds: for cross-validation: divide all photos, those of train and val together, into so many parts of about one
            size; `val` is then the share of one. None for a single split.
        fold: which part to validate on, from 1; 0 learns from all photos.

    Raises:
        ConfigError: a share or an expression that cannot be used.
    """

    val: float
    group_by: str | None = None
    seed: int = 0
    folds: int | None = None
    fold: int | None = None

    def __post_init__(self) -> None:
        is_number = isinstance(self.val, int | float) and not isinstance(self.val, bool)
        if not is_number or not math.isfinite(self.val) or not 0 < self.val < 1:
            raise ConfigError(
                f"the share to validate on is {show(self.val)}", fix="give one such as 0.1", code="split-rule"
            )
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or abs(self.seed) > LARGEST_SEED:
            raise ConfigError(f"the split's seed is {show(self.seed)}", fix="give a whole number", code="split-rule")
        check_group_by(self.group_by)
        if self.folds is not None or self.fold is not None:
            _check_folds(self.folds, self.fold)

    @classmethod
    def of_fold(cls, fold: int, folds: int, group_by: str | None = None, seed: int = 0) -> SplitRule:
        """Make the rule of one part of a cross-validation, from 1; 0 learns from all photos."""
        _check_folds(folds, fold)
        return cls(val=1 / folds, group_by=group_by, seed=seed, folds=folds, fold=fold)

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
        refuse_unknown(values, ("val", "group_by", "seed", "folds", "fold"), "`split`")
        refuse_missing(values, ["val"], "`split`", fix="write `split: {val: 0.1}`", code="split-rule")
        return cls(**values)

    def divide(self, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Return what to learn from and what to validate on, each in the given order.

        Raises:
            ConfigError: there are fewer than two groups, or `group_by` matches not all names.
        """
        of_samples = groups_of([sample.name for sample in samples], self.group_by)
        groups: dict[str, list[Sample]] = defaultdict(list)
        for sample, group in zip(samples, of_samples, strict=True):
            groups[group].append(sample)
        if len(groups) < 2:
            what = "photos" if self.group_by is None else f"groups by {show(self.group_by)}"
            raise ConfigError(
                f"{len(groups)} {what}: they cannot be split into train and val",
                fix="add photos, or group them by more of their names",
                code="split-rule",
            )
        if self.folds is not None:
            chosen = self._part({name: len(group) for name, group in groups.items()}, self.folds)
        else:
            chosen = self._share({name: len(group) for name, group in groups.items()})
        held = [group in chosen for group in of_samples]
        learnt = [sample for sample, out in zip(samples, held, strict=True) if not out or self.fold == 0]
        return learnt, [sample for sample, out in zip(samples, held, strict=True) if out]

    def _share(self, sizes: Mapping[str, int]) -> set[str]:
        """Groups that come nearest to the share to validate on."""
        chosen: set[str] = set()
        wanted, taken = self.val * sum(sizes.values()), 0
        ordered = sorted(sizes, key=self._place)
        for name in ordered[:-1]:  # at least one group is left to learn from
            size = sizes[name]
            if not chosen or abs(taken + size - wanted) < abs(taken - wanted):
                chosen.add(name)
                taken += size
        return chosen

    def _part(self, sizes: Mapping[str, int], folds: int) -> set[str]:
        """The groups of one fold: each group, the largest first, goes where there are fewest photos; all for fold 0."""
        if len(sizes) < folds:
            what = "photos" if self.group_by is None else f"groups by {show(self.group_by)}"
            raise ConfigError(
                f"{len(sizes)} {what}: they cannot be divided into {folds} folds",
                fix=f"use --folds {len(sizes)} or fewer, or group the photos by more of their names",
                code="split-rule",
            )
        parts: list[list[str]] = [[] for _ in range(folds)]
        for name in sorted(sizes, key=lambda group: (-sizes[group], self._place(group))):
            min(parts, key=lambda part: (sum(sizes[group] for group in part), len(part))).append(name)
        return set(sizes) if not self.fold else set(parts[self.fold - 1])

    def told(self, samples: Sequence[Sample]) -> str:
        """Say what it makes of these photos."""
        train, val = self.divide(samples)
        if self.fold == 0:
            return f"all {len(train)} photos of train and val are learnt from"
        by = "photos" if self.group_by is None else f"groups by {show(self.group_by)}"
        groups = [len(set(groups_of([sample.name for sample in some], self.group_by))) for some in (val, samples)]
        counted = "" if self.group_by is None else f" ({groups[0]} of {groups[1]} groups)"
        fold = "" if self.fold is None else f"fold {self.fold} of {self.folds}, "
        return f"{fold}split by seed {self.seed}, in {by}: {len(train)} photos in train, {len(val)} in val{counted}"

    def _place(self, group: str) -> bytes:
        return hashlib.blake2b(f"{self.seed}/{group}".encode("utf-8", "surrogateescape"), digest_size=8).digest()


def _check_folds(folds: object, fold: object) -> None:
    are_counts = all(isinstance(number, int) and not isinstance(number, bool) for number in (folds, fold))
    if not are_counts or not 2 <= folds <= MOST_FOLDS or not 0 <= fold <= folds:  # type: ignore[operator]
        raise ConfigError(
            f"there are {show(folds)} folds, and the one to validate on is {show(fold)}",
            fix=f"give from 2 to {MOST_FOLDS} folds, such as --folds 5",
            code="split-rule",
        )


def check_group_by(group_by: str | None) -> None:
    """Refuse an expression for groups that cannot be used.

    Raises:
        ConfigError: it is not a regular expression, or one that might never end (code "split-rule").
    """
    if group_by is None:
        return
    if not isinstance(group_by, str) or len(group_by) > 200 or ENDLESS.search(group_by):
        raise ConfigError(
            f"{show(group_by)} is too long, or repeats what repeats, which may take for ever",
            fix="give a short expression, such as '[^_]+' for all up to the first _",
            code="split-rule",
        )
    try:
        re.compile(group_by)
    except (re.error, TypeError, RecursionError, OverflowError) as error:
        raise ConfigError(
            f"{show(group_by)} is not a regular expression: {error}",
            fix="give one that matches the beginning of names, such as '[^_]+' for all up to the first _",
            code="split-rule",
        ) from error


def groups_of(names: Sequence[str], group_by: str | None) -> list[str]:
    """Return the group of each photo: what a regular expression matches at the beginning of its name.

    Args:
        names: without their endings.
        group_by: the expression, whose first group counts if it has one; None, and each photo is its own.

    Raises:
        ConfigError: it does not match every name.
    """
    check_group_by(group_by)
    found = [_group(same_name(name), group_by) for name in names]
    unmatched = [name for name, group in zip(names, found, strict=True) if not group]
    if unmatched:
        raise ConfigError(
            f"{show(group_by)} does not match {list_names(unmatched)}",
            fix="give an expression that matches the beginning of every photo's name",
            code="split-rule",
        )
    return found


def _group(name: str, group_by: str | None) -> str:
    if group_by is None:
        return name
    match = re.match(group_by, name)
    return "" if match is None else (match[1] if match.re.groups else match[0]) or ""

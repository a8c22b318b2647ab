"""Rules for reading a data set where its files leave it open: a split into train and val, crowds of COCO documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from terrazzo.data.detect import find_layout
from terrazzo.data.layout import ALL, Layout, Pairs
from terrazzo.data.problems import Problem
from terrazzo.data.splits import SplitRule
from terrazzo.errors import ConfigError, DatasetError
from terrazzo.notes import note
from terrazzo.text import show, shown_path

__all__ = ["Crowds", "DataRules", "with_rules"]

Crowds: TypeAlias = Literal["ignore", "objects"]


@dataclass(frozen=True, kw_only=True)
class DataRules:
    """What a recipe says about reading its data.

    Attributes:
        split: splits off photos to validate on; None where the data set has its own splits.
        crowds: what annotations with ``iscrowd: 1`` are: to be ignored, as COCO means it, or objects like others, as
            tools write that give every brush mask this mark.
    """

    split: SplitRule | None = None
    crowds: Crowds = "ignore"

    @classmethod
    def of_recipe(cls, values: Mapping[str, Any]) -> DataRules:
        """Take the rules out of a recipe's values, in sections or flat, of which some may be missing."""
        section = values.get("data")
        values = section if isinstance(section, Mapping) else values
        split = values.get("split")
        rule = SplitRule.from_dict(split) if isinstance(split, Mapping) else split
        return cls(split=rule, crowds=values.get("crowds") or "ignore")

    @classmethod
    def of_model(cls, record: Mapping[str, Any], root: Path, split: str) -> DataRules:
        """Take from a model's record how its training data was read, as far as a split of this data set needs it.

        Raises:
            DatasetError: the record's rule splits the photos, and there are more or fewer than in training.
        """
        recipe = record.get("recipe")
        rules = cls.of_recipe(recipe) if isinstance(recipe, Mapping) else cls()
        layout = find_layout(root)
        if layout.crowds_as_objects is None:
            rules = replace(rules, crowds="ignore")
        is_pooled = rules.split is not None and rules.split.folds is not None
        if not is_pooled and (split in layout.splits or "val" in layout.splits):
            rules = replace(rules, split=None)
        if split not in ("train", "val"):
            rules = replace(rules, split=None)
        if rules.split is not None and is_pooled:
            return replace(rules, split=_fold_again(rules.split, layout, record, root))
        if rules.split is not None:
            there = sum(len(with_rules(layout, rules).pairs(part)[0]) for part in ("train", "val"))
            learnt = (record.get("train_photos"), record.get("val_photos"))
            if all(isinstance(count, int) for count in learnt) and sum(learnt) != there:  # type: ignore[arg-type]
                raise DatasetError(
                    f"{shown_path(root)} has {there} photos, and had {sum(learnt)} when training split them: photos of "  # type: ignore[arg-type]
                    f"{split} may have been learnt from",
                    fix=f"take away what has been added since, or evaluate all of another folder with --split {ALL}",
                    code="split-changed",
                )
        return rules


def with_rules(layout: Layout, rules: DataRules) -> Layout:
    """Return a layout whose splits follow the rules.

    Raises:
        ConfigError: there is nothing to which a rule applies.
    """
    if rules.crowds == "objects":
        if layout.crowds_as_objects is None:
            raise ConfigError(
                f"{shown_path(layout.root)}, taken for {layout.name}, has no crowds",
                fix="leave out --crowds: only COCO documents have them",
                code="data-crowds",
            )
        layout = replace(layout, list_pairs=layout.crowds_as_objects)
    elif rules.crowds != "ignore":
        raise ConfigError(f"crowds cannot be {show(rules.crowds)}", fix="write ignore or objects", code="data-crowds")
    if rules.split is None:
        return layout
    if rules.split.folds is not None:
        return _pooled(layout, rules.split)
    whole = layout.splits[0] if len(layout.splits) == 1 else "train" if "train" in layout.splits else None
    if "val" in layout.splits or whole is None:
        has = "val already" if "val" in layout.splits else "no split train"
        raise ConfigError(
            f"{shown_path(layout.root)}, taken for {layout.name}, has {has}: it is not to be split by --val",
            fix="leave out --val, or choose among its splits with --train-split and --val-split",
            code="split-rule",
        )
    others = tuple(name for name in layout.splits if name != whole)
    divided = partial(_divided, layout, rules.split, whole)
    return replace(layout, splits=("train", "val", *others), list_pairs=divided)


def _pooled(layout: Layout, rule: SplitRule) -> Layout:
    """Return a layout with one fold of a cross-validation over the photos of train and val together."""
    parts = [name for name in layout.splits if name in ("train", "val")] or list(layout.splits[:1])
    if len(layout.splits) > 1 and "train" not in parts:
        raise ConfigError(
            f"{shown_path(layout.root)}, taken for {layout.name}, has no split train to divide into folds",
            fix="name the folder of photos and masks itself",
            code="split-rule",
        )

    def listed(split: str) -> Pairs:
        if split not in ("train", "val"):
            return layout.pairs(split)
        found = [layout.pairs(part) for part in parts]
        samples = [sample for some, _ in found for sample in some]
        problems = [problem for _, some in found for problem in some]
        if not samples:
            return (samples, problems) if split == "train" else ([], [])
        told = Problem("note", "split-made", None, rule.told(samples), "nothing to do; the run's recipe keeps it")
        train, val = rule.divide(samples)
        return (train, [*problems, told]) if split == "train" else (val, [])

    others = tuple(name for name in layout.splits if name not in (*parts, "train", "val"))
    return replace(layout, splits=("train", "val", *others), list_pairs=listed)


def _fold_again(rule: SplitRule, layout: Layout, record: Mapping[str, Any], root: Path) -> SplitRule | None:
    """Return the fold that a model was trained in, where this is the data set of its training; else None.

    Elsewhere the data set's own splits are meant.
    """
    learnt = record.get("train_photos"), record.get("val_photos")
    samples = [s for part in ("train", "val") for s in _pooled(layout, replace(rule, fold=1)).pairs(part)[0]]
    total = sum(count for count in learnt if isinstance(count, int)) if rule.fold else learnt[0]
    if total != len(samples):
        return None
    if rule.fold == 0:
        note(f"the model has learnt from all photos of {shown_path(root)}, if it is the data set of its training")
        return None
    return rule


def _divided(layout: Layout, rule: SplitRule, whole: str, split: str) -> Pairs:
    if split not in ("train", "val"):
        return layout.pairs(split)
    samples, problems = layout.pairs(whole)
    if not samples:
        return (samples, problems) if split == "train" else ([], [])
    told = Problem("note", "split-made", None, rule.told(samples), "nothing to do; the run's recipe keeps it")
    train, val = rule.divide(samples)
    return (train, [*problems, told]) if split == "train" else (val, [])

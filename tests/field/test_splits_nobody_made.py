"""Photos that nobody has split: train and val by a seeded rule, kept in the recipe; other splits by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from drawn_masks import discs, photo, save
from flat_recipes import flat

from terrazzo.cli.check_data import check_data
from terrazzo.data import DataRules, Dataset, open_dataset
from terrazzo.data.check import check_dataset
from terrazzo.data.dataset import Sample
from terrazzo.data.splits import SplitRule
from terrazzo.errors import ConfigError, DatasetError
from terrazzo.notes import TerrazzoWarning
from terrazzo.training.data import open_splits
from terrazzo.training.recipe import Recipe, automatic_recipe

RULE = SplitRule(val=0.3)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Twenty photos of four scenes, in images/ and masks/."""
    for number in range(20):
        name = f"scene{number % 4}_{number:02}"
        photo(tmp_path / f"plain/images/{name}.png", (8, 8))
        save(tmp_path / f"plain/masks/{name}.png", discs([1])[:8, :8])
    return tmp_path / "plain"


def opened(root: Path, split: str, rule: SplitRule) -> list[str]:
    with pytest.warns(TerrazzoWarning, match="split by seed") if split == "train" else _nothing():
        return [sample.name for sample in open_dataset(root, split, rules=DataRules(split=rule)).samples]


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_the_split_is_exact_seeded_and_covers_all(plain: Path) -> None:
    train, val = opened(plain, "train", RULE), opened(plain, "val", RULE)
    assert (len(train), len(val)) == (14, 6)
    assert sorted(train + val) == sorted(path.stem for path in (plain / "images").iterdir())
    assert opened(plain, "val", RULE) == val
    assert opened(plain, "val", replace(RULE, seed=1)) != val
    assert val == ["scene0_00", "scene0_08", "scene0_12", "scene2_14", "scene3_11", "scene3_15"]  # on every machine


@pytest.mark.parametrize("group_by", ["[^_]+", r"(scene\d)_", "scene."])
def test_groups_stay_together(plain: Path, group_by: str) -> None:
    rule = SplitRule(val=0.25, group_by=group_by)
    train, val = opened(plain, "train", rule), opened(plain, "val", rule)
    assert (len(train), len(val)) == (15, 5)
    assert len({name[:6] for name in val}) == 1
    assert not {name[:6] for name in val} & {name[:6] for name in train}


def test_the_same_images_however_their_names_are_composed() -> None:
    names = [f"é{number}" for number in range(30)]
    apart = [f"e\N{COMBINING ACUTE ACCENT}{number}" for number in range(30)]
    chosen = []
    for each in (names, apart):
        samples = [Sample.of_files(Path(f"{name}.jpg"), Path("mask.png")) for name in each]
        chosen.append([each.index(sample.name) for sample in RULE.divide(samples)[1]])
    one, other = chosen
    assert one == other and len(one) == 9


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"val": 0}, "share to validate on is 0"),
        ({"val": 1.0}, "share"),
        ({"val": "a"}, "share"),
        ({"val": 0.1, "group_by": "("}, "not a regular expression"),
        ({"val": 0.1, "seed": "x"}, "seed"),
        ({"val": 0.1, "seed": 10**5000}, "seed"),
        ({"val": 0.1, "group_by": "(a+)+b"}, "repeats what repeats"),
        ({"val": 0.1, "groups": "x"}, "unknown key 'groups'"),
        ({}, "lacks val"),
    ],
)
def test_rules_that_cannot_be_used(rule: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SplitRule.from_dict(rule)


def test_groups_that_do_not_fit_the_names(plain: Path) -> None:
    for group_by, message in (("scene[01]_", "does not match 'scene2_02'"), ("scene", "1 groups by 'scene'")):
        with pytest.raises(ConfigError, match=message):
            open_dataset(plain, "val", rules=DataRules(split=SplitRule(val=0.1, group_by=group_by)))


def test_what_is_split_already_is_not_split_again(plain: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    for split in ("train", "val"):
        photo(root / split / "images/a.png", (8, 8))
        save(root / split / "masks/a.png", discs([1])[:8, :8])
    with pytest.raises(ConfigError, match="has val already"):
        open_dataset(root, "train", rules=DataRules(split=RULE))
    (root / "val").rename(root / "more")
    with pytest.raises(ConfigError, match="1 photos: they cannot be split"):
        open_dataset(root, "val", rules=DataRules(split=RULE))


def test_without_a_rule_the_way_is_said(plain: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        open_dataset(plain, "train")
    assert "--val 0.1" in caught.value.fix
    assert len(open_dataset(plain, "all")) == 20
    check = check_dataset(plain)
    assert [(split.name, split.images) for split in check.splits] == [("all", 20)]
    assert [problem.code for problem in check.errors] == ["dataset-split"]
    check = check_dataset(plain, rules=DataRules(split=RULE))
    assert [(split.name, split.images) for split in check.splits] == [("train", 14), ("val", 6)]
    assert not check.errors and "14 photos in train, 6 in val" in check.problems[0].message


def recipe(**changes: object) -> Recipe:
    return automatic_recipe("segformer_b0", [(8, 8)]).changed(changes)


def test_the_recipe_keeps_the_rule_and_evaluation_follows_it(plain: Path) -> None:
    rule = {"val": 0.3, "group_by": "[^_]+", "seed": 2}
    chosen = recipe(split=rule)
    assert (
        chosen.to_dict()["data"]["split"] == {**rule, "folds": None, "fold": None}
        and Recipe.from_dict(chosen.to_dict(), "here") == chosen
    )
    train, val = _split(chosen, plain)
    record = {"recipe": chosen.to_dict(), "train_photos": len(train), "val_photos": len(val)}
    rules = DataRules.of_model(record, plain, "val")
    assert open_dataset(plain, "val", rules=rules).samples == val.samples
    assert len(open_dataset(plain, "all", rules=DataRules.of_model(record, plain, "all"))) == 20
    photo(plain / "images/scene9_99.png", (8, 8))
    save(plain / "masks/scene9_99.png", discs([1])[:8, :8])
    with pytest.raises(DatasetError, match="has 21 photos, and had 20 when training split them"):
        DataRules.of_model(record, plain, "val")


def test_a_rule_of_a_model_leaves_data_alone_that_has_splits(plain: Path, tmp_path: Path) -> None:
    record = {"recipe": recipe(split={"val": 0.3}, crowds="objects").to_dict(), "train_photos": 14, "val_photos": 6}
    for split in ("train", "val"):
        photo(tmp_path / "two" / split / "images/a.png", (8, 8))
        save(tmp_path / "two" / split / "masks/a.png", discs([1])[:8, :8])
    assert DataRules.of_model(record, tmp_path / "two", "val") == DataRules()
    assert DataRules.of_model({}, plain, "all") == DataRules()


def _split(chosen: Recipe, data: Path) -> tuple[Dataset, Dataset]:
    with pytest.warns(TerrazzoWarning, match="split by seed 2, in groups"):
        return open_splits(chosen.data, data)


def test_a_recipe_without_the_fields_means_what_it_meant() -> None:
    older = {key: value for key, value in flat(recipe()).items() if key not in ("split", "crowds")}
    assert Recipe.from_dict(older, "here") == recipe()
    assert recipe().data.split is None and recipe().data.crowds == "ignore"


def test_the_command_line_passes_the_rule_on(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_data(plain, val=0.3, group_by="[^_]+")
    printed = " ".join(capsys.readouterr().out.split())
    assert "in groups by '[^_]+': 15 photos in train, 5 in val (1 of 4 groups)" in printed
    assert printed.endswith("Ready to train.")

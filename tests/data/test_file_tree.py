"""Names from documents: looked up below a folder, however they are written, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terrazzo.data.file_tree import FileTree, base_name, leads_elsewhere, shown_name
from terrazzo.data.folders import split_folders


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.jpg", "day 1/b.JPG", "day 1/deep/c.png", "gr\u00fcn.png", ".hidden/d.jpg"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "outside.jpg").touch()
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.jpg", "a.jpg"),
        ("./a.jpg", "a.jpg"),
        ("day 1\\b.JPG", "day 1/b.JPG"),
        ("day 1//deep/../deep/c.png", "day 1/deep/c.png"),
        ("day 1/../a.jpg", "a.jpg"),
        ("gru\u0308n.png", "gr\u00fcn.png"),
        ("A.jpg", None),
        ("day 1", None),
        ("../outside.jpg", None),
        ("day 1/../../outside.jpg", None),
        ("..\\outside.jpg", None),
        ("/a.jpg", None),
        ("C:\\a.jpg", None),
        ("https://host/a.jpg", None),
        ("", None),
        ("\0", None),
        ("a" * 5000, None),
    ],
)
def test_a_name_finds_its_file_or_nothing(name: str, found: str | None, root: Path) -> None:
    assert FileTree(root).find(name) == (None if found is None else root / found)


def test_names_relative_to_a_folder_may_go_up_to_the_root_and_no_further(root: Path) -> None:
    tree = FileTree(root)
    assert tree.find("../../a.jpg", root / "day 1/deep") == root / "a.jpg"
    assert tree.find("../../../outside.jpg", root / "day 1/deep") is None


def test_images_and_folders_by_name(root: Path) -> None:
    tree = FileTree(root)
    assert tree.find_image("b", root / "day 1") == root / "day 1/b.JPG"
    assert tree.find_image("b", root) is None
    assert tree.folder_with("c.png") == root / "day 1/deep"
    assert tree.folder_with("deep/c.png") == root / "day 1"
    assert tree.folder_with("d.jpg") is None


@given(st.text(max_size=30))
def test_no_name_leads_out(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.getbasetemp()
    found = FileTree(root).find(name)
    assert found is None or (found.is_relative_to(root) and ".." not in found.parts)
    assert isinstance(leads_elsewhere(name), bool)


def test_the_last_part_of_paths_and_addresses() -> None:
    for name in ("x/a.jpg", "C:\\x\\a.jpg", "https://host/x/a.jpg?sig=1/2", "a.jpg"):
        assert base_name(name) == "a.jpg"


def test_long_and_strange_names_are_shown_shortly() -> None:
    assert shown_name("\x1b[2Jx") == "\\x1b[2Jx"
    assert len(shown_name("a" * 5000)) == 103


def test_folders_of_splits_by_other_names(tmp_path: Path) -> None:
    for name in ("Training", "valid", "val", "test", "other"):
        (tmp_path / name).mkdir()
    found = split_folders(tmp_path)
    assert found == {
        "train": tmp_path / "Training",
        "val": tmp_path / "val",
        "test": tmp_path / "test",
        "valid": tmp_path / "valid",  # nothing is dropped
    }
    assert split_folders(tmp_path / "nowhere") == {}

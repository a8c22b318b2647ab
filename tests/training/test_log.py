"""The table of a run: what somebody wrote into it is kept when the run goes on, and its own is written on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from terrazzo.training import log as log_module
from terrazzo.training.log import RunLog

ROWS = [
    {"epoch": 1, "step": 2, "loss": 0.5, "lr": 0.1, "mIoU": 30.0},
    {"epoch": 2, "step": 4, "loss": 0.25, "lr": 0.05},
]
HEAD = "epoch,step,loss,lr,images_per_second,memory_mb,hours,mIoU,mAcc,aAcc\n"
FIRST, SECOND = "1,2,0.5,0.1,,,,30.0,,\n", "2,4,0.25,0.05,,,,,,\n"


def log_of(folder: Path, rows: int) -> RunLog:
    """The log of a run that goes on after so many epochs."""
    log = RunLog(folder)
    log.restore(ROWS[:rows], [])
    return log


def close_an_epoch(log: RunLog) -> list[str]:
    """Close the next epoch, and return what the table has for the epochs."""
    log.losses = [0.125]
    log.epoch(len(log.rows) + 1, 9, 6, 0.01, None, 1.0, False)
    lines = (log.output / "log.csv").read_text().splitlines(keepends=True)
    assert lines[0] == HEAD and len(lines) == 1 + len(log.rows)
    return lines[1:]


@pytest.mark.parametrize(
    "later",
    ["", "3,6,0.3,0.01,20.0,300,0.1,,,\n", "3,6,nan,0.01,20.0,300,0.1,,,\n4,8,0.3,0.01,20.0,300,0.1,44.0,50.0,60.0\n"],
)
def test_its_own_table_is_written_on(tmp_path: Path, capsys: pytest.CaptureFixture[str], later: str) -> None:
    """A run that was killed may have closed an epoch or two after the checkpoint that it goes on from."""
    (tmp_path / "log.csv").write_text(HEAD + FIRST + SECOND + later)
    lines = close_an_epoch(log_of(tmp_path, 2))
    assert lines[:2] == [FIRST, SECOND] and lines[2].startswith("3,6,0.125,0.01,")
    assert "log.earlier" not in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["log.csv"]


EDITS: dict[str, Callable[[str], str]] = {
    "a remark": lambda text: text + "# raised the rate here\n",
    "a remark in front": lambda text: "# the run of May\n" + text,
    "a column more": lambda text: "\n".join(f"{line},x" for line in text.splitlines()),
    "another number": lambda text: text.replace("0.25", "0.24"),
    "a row less": lambda text: HEAD + SECOND,
    "a row more": lambda text: text + "best,4,0.25,0.05,,,,,,\n",
    "a row that does not follow": lambda text: text + FIRST,
    "semicolons": lambda text: text.replace(",", ";"),
    "no text": lambda text: "\0\ufffd",
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_somebody_wrote_into_it_is_kept_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], edit: str
) -> None:
    theirs = EDITS[edit](HEAD + FIRST + SECOND)
    (tmp_path / "log.csv").write_text(theirs)
    log = log_of(tmp_path, 2)
    assert close_an_epoch(log)[:2] == [FIRST, SECOND]
    assert (tmp_path / "log.earlier.csv").read_text() == theirs
    said = capsys.readouterr().err
    assert f"note: {tmp_path}/log.csv was not as this program wrote it, and is now {tmp_path}/log.earlier.csv" in said
    close_an_epoch(log)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "log.earlier.csv"]


def test_a_second_edit_gets_another_name(tmp_path: Path) -> None:
    for name in ("log.earlier.csv", "log.earlier2.csv"):
        (tmp_path / "log.csv").write_text(f"remark, then {name}")
        close_an_epoch(log_of(tmp_path, 1))
        assert (tmp_path / name).read_text() == f"remark, then {name}"


def test_a_write_protected_table_is_kept(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(HEAD + FIRST)
    (tmp_path / "log.csv").chmod(0o444)
    close_an_epoch(log_of(tmp_path, 1))
    assert (tmp_path / "log.earlier.csv").read_text() == HEAD + FIRST


def test_bytes_that_are_no_text_are_kept(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"\xff\xfe1\0")
    close_an_epoch(log_of(tmp_path, 0))
    assert (tmp_path / "log.earlier.csv").read_bytes() == b"\xff\xfe1\0"


def test_a_folder_whose_name_is_not_text_is_trained_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "caf\udce9"
    log = RunLog(folder, trackers=["tensorboard"])
    with log.progress(2, 0):
        close_an_epoch(log)
    said = capsys.readouterr().err
    assert "tensorboard does not get the run's numbers (the folder's name is not text); log.csv has them" in said
    assert (folder / "log.csv").is_file()


def test_a_tracker_that_fails_does_not_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def log(self, *_: object) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_module, "open_tracker", lambda *_: Full())
    log = RunLog(tmp_path, trackers=["tensorboard"])
    with log.progress(2, 0):
        log.begin_epoch()
        log.step(1, 0.5, 1e-3, 2)
        log.epoch(1, 1, 1, 1e-3, None, 1.0, False)
    said = capsys.readouterr().err
    assert said.count("tensorboard does not get the run's numbers (No space left on device)") == 1
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2

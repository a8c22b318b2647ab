"""Messages advise options that exist, and say so where the command that shows them has none."""

from __future__ import annotations

from pathlib import Path

import pytest

import terrazzo
from terrazzo.cli.advice import OPTION, fitting
from terrazzo.cli.main import main
from terrazzo.cli.verbs import VERBS, options_of
from terrazzo.errors import ImageError
from terrazzo.notes import note

OTHERS = {"--help", "--version", "--shm-size"}  # of every command, and of docker


def test_every_option_in_a_message_exists() -> None:
    known = OTHERS.union(*map(options_of, VERBS))
    for file in Path(terrazzo.__file__).parent.rglob("*.py"):
        assert known >= set(OPTION.findall(file.read_text(encoding="utf-8"))), file.name


@pytest.mark.parametrize("verb", VERBS)
def test_advice_fits_the_command(verb: str) -> None:
    for option in set().union(*map(options_of, VERBS)):
        if OPTION.fullmatch(option):
            has_it = option in options_of(verb)
            assert (fitting(f"give {option} once", verb) == f"give {option} once") == has_it


def test_who_has_an_option_is_said_once() -> None:
    having = [verb for verb in VERBS if "--engine" in options_of(verb)]
    said = fitting("use --engine torch", "export")
    assert said.startswith("use --engine torch; `terrazzo export` has no --engine, unlike predict, ")
    assert said.endswith(f"{', '.join(having[:-1])} and {having[-1]}")
    said = fitting("add --resume, or --crop 64 64 and --checkpointing", "ablate")
    assert (
        "; `terrazzo ablate` has no --resume" in said and said.count("`terrazzo ablate`") <= 2 and "--crop," not in said
    )
    assert fitting("train with --val 0.1", "evaluate") == "train with --val 0.1"
    assert fitting("run `docker run --shm-size=2g`", "train") == "run `docker run --shm-size=2g`"


@pytest.mark.filterwarnings("ignore")
def test_errors_and_notes_are_made_to_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(arguments: list[str]) -> None:
        note("it comes out dark; --value-range 0,4095 would not")
        raise ImageError("it has 4 bands", fix="choose with --bands 1,2,3", code="image-bands")

    monkeypatch.setattr("terrazzo.cli.main._run", fail)
    with pytest.raises(SystemExit):
        main(["benchmark", "--photos", "x"])
    said, error, fix = capsys.readouterr().err.splitlines()
    assert said.startswith("note: it comes out dark") and "`terrazzo benchmark` has no --value-range, unlike" in said
    assert error == "error[image-bands]: it has 4 bands" and "`terrazzo benchmark` has no --bands, unlike" in fix

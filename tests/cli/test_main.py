"""The command's doors: help, unknown words, failures in two lines, and what it must not import."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import terrazzo
from terrazzo import errors
from terrazzo.cli.main import main
from terrazzo.cli.verbs import VERBS

HELP_TEXTS = Path(__file__).parent / "test_help"
KINDS = [getattr(errors, name) for name in errors.__all__ if name != "MissingExtraError"]

Leave = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns and no colours, whatever the terminal that runs the tests is like."""
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def leave(capsys: pytest.CaptureFixture[str]) -> Leave:
    """Run the command; return its exit status and what it wrote to stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = 0
        try:
            main(list(arguments))
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Put a function in the place of `predict`."""

    def install(function: Callable[..., None]) -> None:
        module = types.ModuleType("replaced_verb")
        module.predict = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "replaced_verb", module)
        monkeypatch.setitem(VERBS, "predict", ("replaced_verb", ""))

    return install


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


# -- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["terrazzo", *VERBS])
def test_help_reads_as_it_did(name: str, leave: Leave) -> None:
    status, out, err = leave("--help") if name == "terrazzo" else leave(name, "--help")
    assert (status, err) == (0, "")
    expected = (HELP_TEXTS / f"{name}.txt").read_text(encoding="utf-8")
    assert lines(out) == lines(expected), f"if this is meant: terrazzo [{name}] --help > tests/cli/test_help/{name}.txt"


@pytest.mark.parametrize("name", VERBS)
def test_help_ends_with_examples_that_can_be_copied(name: str, leave: Leave) -> None:
    text = leave(name, "--help")[1]
    examples = text.partition("\nExamples:\n")[2].splitlines()
    assert examples, "there is no example"
    assert all(line.startswith(f"    terrazzo {name}") and len(line) <= 80 for line in examples)


def test_help_has_a_place_for_every_verb_and_no_more(leave: Leave) -> None:
    assert sorted(path.stem for path in HELP_TEXTS.iterdir()) == sorted(["terrazzo", *VERBS])
    assert all(f"\n  {name} " in leave("--help")[1] for name in VERBS)


@pytest.mark.parametrize("arguments", [[], ["-h"], ["help"]])
def test_ways_to_ask_for_help(arguments: list[str], leave: Leave) -> None:
    assert leave(*arguments) == leave("--help")


@pytest.mark.parametrize("arguments", [["help", "predict"], ["predict", "-h"], ["predict", "a.jpg", "--help"]])
def test_ways_to_ask_for_a_verbs_help(arguments: list[str], leave: Leave) -> None:
    assert leave(*arguments) == leave("predict", "--help")


def test_version(leave: Leave) -> None:
    assert leave("--version") == leave("-V") == (0, f"terrazzo {terrazzo.__version__}\n", "")


def test_no_help_imports_torch() -> None:
    program = (
        "import sys, terrazzo\n"
        "from terrazzo.cli.main import main\n"
        "from terrazzo.cli.verbs import VERBS\n"
        "heavy = {'torch', 'cv2', 'matplotlib', 'cyclopts', 'numpy', 'PIL', 'yaml', 'safetensors'}\n"
        "main(['--help']); main(['--version'])\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "for verb in VERBS:\n"
        "    main([verb, '--help'])\n"
        "    assert 'torch' not in sys.modules, verb\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


# -- what a user can get wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("predcit", "did you mean predict?"),
        ("checkdata", "did you mean check-data?"),
        ("--verbose", f"choose one of {', '.join(VERBS)}; see `terrazzo --help`"),
    ],
)
def test_unknown_verb(word: str, fix: str, leave: Leave) -> None:
    assert leave(word, "--data", "x") == (2, "", f"error[usage]: there is no command {word!r}\n  fix: {fix}\n")


def test_a_image_in_the_place_of_the_verb(tmp_path: Path, leave: Leave) -> None:
    image = tmp_path / "street.jpg"
    image.touch()
    assert leave(str(image))[2].endswith(f"fix: to segment it, run `terrazzo predict {image}`\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "a.jpg", "--modle", "x"], "--model"),
        (["predict", "a.jpg", "--batch-size", "many"], "many"),
        (["predict", "a.jpg", "--batch-size", "1.5"], "'1.5' is not a whole number"),
        (["train", "--data", "x", "--output", "y", "--epochs", "0.5"], "'0.5' is not a whole number"),
        (["train", "--data", "x", "--output", "y", "--crop", "64", "64.4"], "'64.4' is not a whole number"),
        (["ablate", "position", "--data", "x", "--output", "y", "--sides", "9", "8.7"], "'8.7' is not a whole"),
        (["train", "--data", "x"], "--output"),
        (["evaluate", "--data"], "--data"),
        (["models", "stray"], "stray"),
        (["predict", "a.jpg", "--no-skip-bad"], "--no-skip-bad"),
    ],
)
def test_options_that_cannot_be_read(arguments: list[str], words: str, leave: Leave) -> None:
    status, out, err = leave(*arguments)
    assert (status, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith("error[usage]: ") and words in first
    assert second == f"  fix: see `terrazzo {arguments[0]} --help`"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["predict", "a.jpg", "--model", ""], "an argument"),
        (["predict", ""], "an argument"),
        (["evaluate", "--data=", "--model", "x"], "--data"),
        (["check-data", "", "--json", "x.json"], "an argument"),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(arguments: list[str], what: str, leave: Leave) -> None:
    status, out, err = leave(*arguments)
    assert (status, out) == (2, "")
    assert err == f"error[usage]: {what} is empty\n  fix: give a value, or leave the option out\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "a.jpg", "--output"],
        ["evaluate", "--data", "set", "--json"],
        ["check-data", "set", "--json"],
        ["benchmark", "--json"],
        ["explain", "a.jpg", "--output"],
    ],
)
def test_a_name_too_long_for_a_file_is_told_before_any_work(arguments: list[str], leave: Leave) -> None:
    status, out, err = leave(*arguments, "x" * 256)
    assert (status, out) == (2, "")
    assert err.startswith("error[argument-type]: ") and "cannot be the name of anything" in err


@pytest.mark.parametrize("kind", KINDS)
def test_failures_are_two_lines_and_status_2(
    kind: type[errors.TerrazzoError], leave: Leave, verb: Callable[..., None]
) -> None:
    def fail() -> None:
        raise kind("photo.jpg ends early", fix="copy it again")

    verb(fail)
    assert leave("predict") == (2, "", f"error[{kind.code}]: photo.jpg ends early\n  fix: copy it again\n")


def test_a_missing_extra_names_what_to_install(leave: Leave, verb: Callable[..., None]) -> None:
    def fail() -> None:
        raise errors.MissingExtraError("tensorboard", "train")

    verb(fail)
    assert leave("predict")[2].splitlines() == [
        "error[extra]: tensorboard is not installed",
        "  fix: run pip install '.[train]' in the folder of the clone, or pip install tensorboard anywhere",
    ]


def test_hostile_text_stays_two_harmless_lines(leave: Leave, verb: Callable[..., None]) -> None:
    def fail() -> None:
        raise errors.ImageError("a\nb \x1b[31m \udcff [red]é\u2028", fix="one\ntwo", code="image-x")

    verb(fail)
    assert leave("predict")[2] == "error[image-x]: a b \\x1b[31m \\udcff [red]é\\u2028\n  fix: one two\n"


def test_results_may_hold_file_names_that_are_no_text(leave: Leave, verb: Callable[..., None]) -> None:
    verb(lambda: print("gr\udcfcn.jpg"))
    assert leave("predict") == (0, "gr\\udcfcn.jpg\n", "")


def test_faults_of_the_program_keep_their_traceback(verb: Callable[..., None]) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    verb(fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["predict"])


def test_interruption(leave: Leave, verb: Callable[..., None]) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    verb(fail)
    assert leave("predict") == (130, "", "")


def test_a_verbs_own_exit_status_is_kept(leave: Leave, verb: Callable[..., None]) -> None:
    verb(lambda: sys.exit(143))
    assert leave("predict")[0] == 143


# -- the program itself -----------------------------------------------------------------------------------------------


def test_the_command_as_a_process() -> None:
    script = Path(sys.executable).with_name("terrazzo")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "terrazzo"]
    failed = subprocess.run([*command, "predict", "no-such.jpg"], capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stdout == ""
    assert failed.stderr.splitlines()[0] == "error[image-missing]: no-such.jpg: there is no such file or folder"
    assert len(failed.stderr.splitlines()) == 2


def test_a_reader_who_leaves_early_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        left = subprocess.run([sys.executable, "-m", "terrazzo", "--help"], stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (left.returncode, left.stderr) == (1, b"")

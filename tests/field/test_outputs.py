"""Nothing of the user's is lost: what predict and its neighbours replace, leave out, and leave behind."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import terrazzo
from terrazzo.ablation.runs import Setting, trained
from terrazzo.ablation.studies import Variant
from terrazzo.atomic import PARTIAL_PREFIX, clear_stale, replacing
from terrazzo.cli.main import main
from terrazzo.data import Dataset
from terrazzo.engines.memory import is_out_of_memory
from terrazzo.errors import CheckpointError, ConfigError, ImageError, MissingExtraError, OutputError, TrainingError
from terrazzo.inference.failure import Failure
from terrazzo.inference.predict_folder import predict_folder
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import find_protocol
from terrazzo.labels.spec import LabelSpec
from terrazzo.marks import is_result, mark_files
from terrazzo.notes import TerrazzoWarning
from terrazzo.ownership import check_outputs, write_result, write_results
from terrazzo.preprocess import Preprocess
from terrazzo.training.recipe import automatic_recipe
from terrazzo.training.run_folder import refuse_or_resume, write_recipe
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, load_folder, save_folder

LABELS = LabelSpec.from_names(["dark", "bright"])


def brightness(images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """An engine: class 1 where a pixel is bright."""
    mean = images_B3HW.mean(1)
    return np.ascontiguousarray(np.stack([-mean, mean], 1))


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(brightness, Preprocess(), LABELS, "brightness")


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "set"
    folder.mkdir()
    for name, value in (("1.jpg", 20), ("2.jpg", 220)):
        Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(folder / name)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# -- files that are not ours


def test_a_users_masks_are_never_replaced(predictor: Predictor, images: Path) -> None:
    Image.fromarray(np.full((6, 8), 7, np.uint8)).save(images / "1_mask.png")
    before = contents(images)
    with pytest.raises(OutputError, match=r"set/1_mask\.png would be replaced") as caught:
        predict_folder("set/*.jpg", "set", predictor, save="mask")
    assert caught.value.code == "output-not-ours" and "--overwrite" in caught.value.fix
    assert contents(images) == before, "and no other result was written before"
    predict_folder("set/*.jpg", "set", predictor, save="mask", overwrite=True)
    assert np.asarray(Image.open(images / "1_mask.png")).max() == 0


@pytest.mark.parametrize("kind", ["path", "link", "hard link", "folder link"])
def test_an_input_is_never_replaced_whatever_it_is_called(predictor: Predictor, images: Path, kind: str) -> None:
    Image.fromarray(np.full((6, 8), 7, np.uint8)).save("real.png")
    named, output = "real.png", Path("out")
    output.mkdir()
    if kind == "path":
        os.rename("real.png", "out/1_mask.png")
        named = "out/1_mask.png"
    elif kind == "link":
        (output / "1_mask.png").symlink_to(Path("real.png").resolve())
    elif kind == "hard link":
        os.link("real.png", "out/1_mask.png")
    else:
        os.rename("real.png", "out/1_mask.png")
        Path("other").symlink_to("out")
        named, output = "out/../out/1_mask.png", Path("other")
    with pytest.raises(OutputError) as caught:
        predict_folder(["set/1.jpg", named], output, predictor, save="mask", overwrite=True)
    assert caught.value.code == "output-is-input"
    assert np.asarray(Image.open(output / "1_mask.png")).max() == 7


def test_links_in_place_of_a_result(predictor: Predictor, images: Path) -> None:
    Path("out").mkdir()
    Path("mine.txt").write_text("mine")
    link = Path("out/1_mask.png")
    link.symlink_to("../mine.txt")
    with pytest.raises(OutputError, match=r"out/1_mask\.png \(a link to .*/mine\.txt\) would be replaced"):
        predict_folder("set/1.jpg", "out", predictor, save="mask")
    link.unlink()
    link.symlink_to("1_mask.png")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"1_mask\.png could not be written: Too many levels of symbolic links"):
            predict_folder("set/1.jpg", "out", predictor, save="mask", overwrite=overwrite)


def test_the_second_run_takes_the_same_images_and_replaces_its_own_results(predictor: Predictor, images: Path) -> None:
    first = predict_folder("set", "set", predictor)
    before = contents(images)
    with pytest.warns(TerrazzoWarning, match="left out 6 results of earlier runs"):
        second = predict_folder("set", "set", predictor)
    assert [w.path.name for w in second.written] == [w.path.name for w in first.written] == ["1.jpg", "2.jpg"]
    assert len(second.skipped) == 6 and contents(images) == before


def test_results_alone_are_no_images_unless_they_are_named(predictor: Predictor, images: Path) -> None:
    predict_folder("set", "out", predictor, save="color")
    for place in ("out", "out/*.png"):
        with pytest.raises(ImageError, match="all 2 images there are results") as caught:
            predict_folder(place, "again", predictor)
        assert caught.value.code == "image-none-found"
    with pytest.warns(TerrazzoWarning, match=r"out/1_color\.png"):
        assert len(predict_folder("out/1_color.png", "again", predictor).written) == 1
    with pytest.warns(TerrazzoWarning, match="left out 2 results"):  # as a shell writes set/*.jpg out/*.png
        found = predict_folder(["set/1.jpg", "out/1_color.png", "out/2_color.png"], "again", predictor)
    assert [w.path.name for w in found.written] == ["1.jpg"]


def test_a_corrected_result_is_its_owners(predictor: Predictor, images: Path) -> None:
    predict_folder("set/1.jpg", "out", predictor, save="mask,json")
    with Image.open("out/1_mask.png") as mask:
        text = PngInfo()
        text.add_text("Comment", mask.info["Comment"])  # as editors do that keep what they do not know
        corrected = mask.copy()
    corrected.putpixel((0, 0), 1)
    corrected.save("out/1_mask.png", pnginfo=text)
    areas = json.loads(Path("out/1.json").read_text())
    Path("out/1.json").write_text(json.dumps({**areas, "checked": True}))
    assert is_result(Path("out/1_mask.png")), "still no photo"
    with pytest.raises(OutputError, match=r"1_mask\.png, out/1\.json would be replaced"):
        predict_folder("set/1.jpg", "out", predictor, save="mask,json")


def test_results_of_another_command_and_unmarked_ones_are_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_result(path, b'{"mIoU": 1}', "evaluate")
    check_outputs([path], "evaluate")
    with pytest.raises(OutputError, match="`terrazzo benchmark`"):
        check_outputs([path], "benchmark")
    path.write_text('{"mIoU": 1}')
    with pytest.raises(OutputError, match="not as `terrazzo evaluate` wrote it") as caught:
        check_outputs([path], "evaluate")
    assert "earlier versions" in caught.value.fix


@pytest.mark.parametrize("name", ["a.json", "a.yaml", "a.xml", "a.onnx", "no-suffix"])
def test_any_changed_byte_makes_a_marked_text_its_owners(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_result(path, {"a.onnx": b"\x08\x07", "a.yaml": b"x: 1\n", "a.xml": b"<x/>"}.get(name, b'{"x": 1}'), "export")
    good = path.read_bytes()
    check_outputs([path], "export")
    for place in range(len(good)):
        if b"0.1.0" in good[place - 5 : place + 6]:
            continue  # the version is not looked at
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(OutputError):
            check_outputs([path], "export")


def test_files_without_room_for_a_mark_are_known_by_the_one_beside_them(tmp_path: Path) -> None:
    table, report = tmp_path / "t.csv", tmp_path / "r.json"
    write_results({table: b"a,b\n", report: b'{"a": 1}'}, "evaluate")
    check_outputs([table, report], "evaluate")
    table.write_bytes(b"a,c\n")
    with pytest.raises(OutputError, match=r"t\.csv"):
        check_outputs([table, report], "evaluate")
    (tmp_path / "m.xml").write_bytes(b"<x/>")
    (tmp_path / "m.bin").write_bytes(b"weights")
    mark_files([tmp_path / "m.bin", tmp_path / "m.xml"], "export")
    check_outputs([tmp_path / "m.bin", tmp_path / "m.xml"], "export")
    (tmp_path / "m.xml").unlink()
    with pytest.raises(OutputError, match=r"m\.bin"):
        check_outputs([tmp_path / "m.bin", tmp_path / "m.xml"], "export")


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        (["export", "--output", "m.onnx"], "m.onnx"),
        (["export", "--output", "m.xml"], "m.bin"),
        (["evaluate", "--data", "set", "--json", "r.json"], "r.json"),
        (["evaluate", "--data", "set", "--output", "rep"], "rep/per_class.csv"),
        (["check-data", "set", "--json", "r.json"], "r.json"),
        (["benchmark", "--json", "r.json"], "r.json"),
        (["explain", "set/1.jpg", "--output", "."], "1_attention.npz"),
        (["explain", "set/1.jpg", "--output", "."], "receptive_field.png"),
        (["ablate", "stages", "--data", "set", "--output", "."], "stages.md"),
        (["convert", "segformer_b0.camvid", "rep", "--overwrite"], "rep/notes.txt"),
        (["train", "--data", "set", "--output", "run"], "run/recipe.yaml"),
        (["train", "--data", "set", "--output", "run"], "run/model/config.json"),
    ],
)
def test_every_command_refuses_before_it_works(
    images: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], taken: str
) -> None:
    Path(taken).parent.mkdir(parents=True, exist_ok=True)
    Path(taken).write_text("mine")
    if arguments[0] == "evaluate":
        for part in ("images", "masks"):
            (images / "val" / part).mkdir(parents=True)
            Image.fromarray(np.zeros((6, 8), np.uint8)).save(images / "val" / part / "1.png")
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    errors = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    assert errors[-2].startswith(("error[output-", "error[training-output-taken]"))
    assert Path(taken).read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        (["evaluate", "--data", "set", "--labels", "l.yaml", "--json", "l.yaml"], "l.yaml"),
        (["evaluate", "--data", "set", "--model", "m.xml", "--json", "m.bin"], "m.bin"),
        (["check-data", "set", "--labels", "l.yaml", "--json", "l.yaml"], "l.yaml"),
        (["benchmark", "--model", "m.xml", "--json", "m.bin"], "m.bin"),
        (["benchmark", "--photos", "set", "--json", "set/1.jpg"], "set/1.jpg"),
        (["ablate", "stages", "--data", "data", "--labels", "l.yaml", "--output", "."], "stages.md"),
        (["export", "--model", "m", "--output", "x.onnx"], "x.onnx"),
        (["export", "--precision", "fp16", "--data", "data", "--output", "x.xml"], "x.bin"),
        (["predict", "set/1.jpg", "--model", "m", "--save", "json", "--output", "m/config.json"], "m/config.json"),
        (["predict", "set/1.jpg", "--model", "config.json", "--save", "json", "-o", "config.json"], "config.json"),
    ],
)
def test_nothing_that_a_command_reads_is_replaced_although_it_may_overwrite(
    images: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], read: str
) -> None:
    Path("m").mkdir()
    Path("data").mkdir()
    for name in ("l.yaml", "m.xml", "m.bin", "m/config.json", "config.json", "data/labels.yaml"):
        Path(name).write_text("mine")
    links = {"stages.md": "l.yaml", "x.onnx": "m/config.json", "x.bin": "data/labels.yaml"}
    if read in links:
        Path(read).symlink_to(links[read])
    before = Path(read).read_bytes()
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--overwrite"])
    assert caught.value.code == 2 and "error[output-is-input]" in capsys.readouterr().err
    assert Path(read).read_bytes() == before


def test_data_are_not_replaced_by_a_report(images: Path) -> None:
    with pytest.raises(OutputError) as caught:
        check_outputs([images / "1.jpg"], "evaluate", inputs=[images], overwrite=True)
    assert caught.value.code == "output-is-input"


def test_a_run_killed_before_its_first_checkpoint_can_be_started_again(tmp_path: Path) -> None:
    write_result(tmp_path / "recipe.yaml", b"model: segformer_b0\n", "train")
    refuse_or_resume(tmp_path, resume=False)
    with open(tmp_path / "recipe.yaml", "a") as recipe:
        recipe.write("# my own notes\n")
    with pytest.raises(TrainingError, match=r"recipe\.yaml"):
        refuse_or_resume(tmp_path, resume=False)


def test_a_result_saved_in_python_replaces_nothing_of_the_users(predictor: Predictor, images: Path) -> None:
    (result,) = predictor.segment_files([images / "1.jpg"])
    assert not isinstance(result, Failure)
    Path("mask.png").write_bytes(b"mine")
    with pytest.raises(OutputError):
        result.save("mask.png", "mask")
    with pytest.raises(OutputError):
        replace(result, path=Path("mask.png")).save("mask.png", "mask", overwrite=True)
    assert Path("mask.png").read_bytes() == b"mine"
    result.save("mask.png", "mask", overwrite=True)
    result.save("mask.png", "mask")


def test_a_write_protected_result_is_kept(predictor: Predictor, images: Path) -> None:
    """As a cache of versions holds them, with a link in the folder: replacing it would change an old version."""
    predict_folder("set/1.jpg", "out", predictor, save="mask")
    Path("out/1_mask.png").rename("cached")
    Path("cached").chmod(0o444)
    Path("out/1_mask.png").symlink_to("../cached")
    with pytest.raises(OutputError) as caught:
        predict_folder("set/1.jpg", "out", predictor, save="mask")
    assert caught.value.code == "output-not-ours"


def test_what_somebody_wrote_into_a_run_is_kept_when_it_goes_on(tmp_path: Path) -> None:
    recipe = automatic_recipe("segformer_b0", [(48, 64)])
    write_recipe(tmp_path, recipe)
    written = (tmp_path / "recipe.yaml").read_bytes()
    write_recipe(tmp_path, recipe)
    for number, name in enumerate(("recipe.earlier.yaml", "recipe.earlier2.yaml")):
        (tmp_path / "recipe.yaml").write_bytes(written + b"# remark %d" % number)
        with pytest.warns(TerrazzoWarning, match="is now"):
            write_recipe(tmp_path, recipe)
        assert (tmp_path / name).read_bytes() == written + b"# remark %d" % number
    assert (tmp_path / "recipe.yaml").read_bytes() == written

    model = TrainedModel("segformer_b0", create_model("segformer_b0", 2), LABELS, Preprocess())
    save_folder(tmp_path / "model", model)
    (tmp_path / "model" / "exports").mkdir()
    for name in ("mine.onnx", "exports/mine.xml", "config.json"):
        (tmp_path / "model" / name).write_text("mine")
    save_folder(tmp_path / "model", model, keep_others=True)
    kept = [name for name in ("mine.onnx", "exports/mine.xml") if (tmp_path / "model" / name).read_text() == "mine"]
    assert len(kept) == 2 and load_folder(tmp_path / "model").labels == LABELS
    assert not list(tmp_path.glob(".*"))


def test_a_study_trains_over_no_other_run(tmp_path: Path) -> None:
    recipe = automatic_recipe("segformer_b0", [(48, 64)])
    images = Dataset(tmp_path, "train", LABELS, (), "a folder")
    setting = Setting(tmp_path, recipe, images, images, tmp_path)
    mine = tmp_path / "segformer_b0" / "model" / "config.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(TrainingError) as caught:
        trained(setting, Variant("segformer_b0", "SegFormer", "segformer_b0"))
    assert caught.value.code == "training-output-taken" and mine.read_text() == "mine"


def test_pictures_of_a_run_of_an_earlier_version_are_no_images(predictor: Predictor, images: Path) -> None:
    Path("runs/mine/report").mkdir(parents=True)
    Path("runs/mine/recipe.yaml").write_text("model: segformer_b0\n")
    Path("runs/mine/log.csv").write_text("epoch\n")
    for name in ("curves.png", "predictions.png", "report/confusion.png", "seen.png"):
        Image.fromarray(np.zeros((6, 8), np.uint8)).save(f"runs/mine/{name}")
    with pytest.warns(TerrazzoWarning, match="left out 3 results"):
        summary = predict_folder("runs", "out", predictor, save="mask")
    assert [w.path.name for w in summary.written] == ["seen.png"]


# -- names


def test_names(predictor: Predictor, images: Path) -> None:
    for name in (".hidden.png", "-dash.png", "A.png", "a.png", "cafe\u0301.png", "caf\u00e9.png"):
        Image.fromarray(np.full((6, 8, 3), 20, np.uint8)).save(name)
    names = [".hidden.png", "A.png", "a.png", "cafe\u0301.png", "caf\u00e9.png"]
    predict_folder(names, "out", predictor, save="mask")
    found = sorted(os.listdir("out"))
    assert "hidden_mask.png" in found and len(found) == 5
    assert len({name.casefold() for name in found}) == 5, "also on disks that do not tell A from a"


def test_a_image_whose_name_begins_with_a_dash(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr("terrazzo.cli.predict.predict_folder", lambda images, *_, **__: taken.append(images) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["predict", "--save", "mask", "--", "-dash.png", "--output"])
    assert taken == [["-dash.png", "--output"]]


def test_an_undeclared_dash_says_what_to_do(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("-dash.png").write_bytes(b"")
    with pytest.raises(SystemExit):
        main(["predict", "-dash.png"])
    assert "./-dash.png" in capsys.readouterr().err


@pytest.mark.parametrize(("output", "save"), [("x.jpg", "mask"), ("x.png", "mask,color"), ("x.png", "json")])
def test_an_output_that_looks_like_a_file_is_refused_first(images: Path, output: str, save: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the file") as caught:
        predict_folder("set/1.jpg", output, "no-model-is-looked-for", save=save)
    assert caught.value.code == "config-save" and not Path(output).exists()


def test_one_image_and_one_kind_can_be_a_file(predictor: Predictor, images: Path) -> None:
    predict_folder("set/2.jpg", "x.png", predictor, save="mask")
    assert np.asarray(Image.open("x.png")).min() == 1


# -- photos that fail


class Fragile:
    """An engine that fails for photos wider than it can bear, and counts its calls."""

    def __init__(self, error: Exception, widest: int) -> None:
        self.error, self.widest, self.calls = error, widest, 0

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls += 1
        if images_B3HW.shape[3] > self.widest or len(images_B3HW) > 1:
            raise self.error
        return brightness(images_B3HW)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:128] . DefaultCPUAllocator: can't allocate memory: 9 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes"),
    ],
)
def test_a_image_too_large_for_the_memory_is_done_in_windows(
    predictor: Predictor, images: Path, error: Exception
) -> None:
    wide = np.full((4, 1200, 3), 20, np.uint8)
    wide[:, 700:] = 220
    Image.fromarray(wide).save(images / "1b.png")
    fragile = replace(predictor, engine=Fragile(error, widest=600))
    with pytest.warns(TerrazzoWarning, match=r"1b\.png: there is not enough memory .* windows of 512 x 512"):
        summary = predict_folder("set", "out", fragile, save="mask", batch_size=2)
    assert [w.path.name for w in summary.written] == ["1.jpg", "1b.png", "2.jpg"] and not summary.failures
    np.testing.assert_array_equal(np.asarray(Image.open("out/1b_mask.png"))[0], np.arange(1200) >= 700)


def test_windows_too_large_fail_alone(predictor: Predictor, images: Path) -> None:
    Image.fromarray(np.full((6, 900, 3), 20, np.uint8)).save(images / "1b.png")
    summary = predict_folder("set", "out", replace(predictor, engine=Fragile(MemoryError(), 20)), save="mask")
    assert len(summary.written) == 2
    (failure,) = summary.failures
    assert failure.error.code == "image-memory" and "set/1b.png" in failure.error.message


def test_whatever_goes_wrong_with_a_image_takes_no_other_along(predictor: Predictor, images: Path) -> None:
    Image.fromarray(np.full((6, 90, 3), 20, np.uint8)).save(images / "1b.png")
    Path("out/1_mask.png").mkdir(parents=True)
    with pytest.raises(OutputError, match="is a folder"):
        predict_folder("set", "out", predictor, save="mask")
    Path("out/1_mask.png").rmdir()
    engine = Fragile(ValueError("something odd"), widest=80)
    summary = predict_folder("set", "out", replace(predictor, engine=engine), save="mask")
    assert [w.path.name for w in summary.written] == ["1.jpg", "2.jpg"]
    assert "set/1b.png: ValueError: something odd" in summary.failures[0].error.message
    assert summary.failures[0].error.code == "image-failed"


def test_a_image_in_memory_fails_as_one_of_a_folder_does(predictor: Predictor) -> None:
    wide = np.full((4, 1200, 3), 20, np.uint8)
    wide[:, 700:] = 220
    with pytest.warns(TerrazzoWarning, match=r"the image: there is not enough memory .* windows of 512 x 512"):
        result = terrazzo.predict(wide, replace(predictor, engine=Fragile(MemoryError(), widest=600)))
    np.testing.assert_array_equal(result.mask[0], np.arange(1200) >= 700)
    odd = replace(predictor, engine=Fragile(RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Reshape"), widest=0))
    with pytest.raises(ImageError, match=r"the image: RuntimeError: .* Reshape") as caught:
        terrazzo.predict(wide, odd)
    assert caught.value.code == "image-failed"
    with pytest.raises(ImageError, match="not enough memory"):
        terrazzo.predict(wide, replace(predictor, engine=Fragile(MemoryError(), widest=0)))


def test_a_missing_package_is_named_with_the_image() -> None:
    """Its error takes other arguments than the rest."""
    failure = Failure.of(Path("set/1.jpg"), MissingExtraError("torch", "train"))
    assert failure.error.message == "set/1.jpg: torch is not installed" and "pip install torch" in failure.error.fix
    assert isinstance(failure.error, MissingExtraError)


def test_a_place_that_cannot_be_written_fails_alone(
    predictor: Predictor, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 10_000:
            raise OSError(28, "No space left on device")
        flush(descriptor)

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(images / "1b.png")
    monkeypatch.setattr(os, "fsync", full)
    summary = predict_folder("set", "out", predictor, save="overlay")
    (failure,) = summary.failures
    assert failure.path.name == "1b.png" and failure.error.code == "output-disk-full"
    assert len(summary.written) == 2 and not list(Path("out").glob(f"{PARTIAL_PREFIX}*"))


@pytest.mark.parametrize(
    ("result", "given"),
    [
        (np.zeros((1, 3, 6, 8), np.float32), r"\(1, 3, 6, 8\) float32"),
        (np.zeros((2, 2, 6, 8), np.float32), r"\(2, 2, 6, 8\) float32"),
        (np.zeros((1, 2, 6, 8), np.float64), r"\(1, 2, 6, 8\) float64"),
        (np.zeros((1, 2, 0, 8), np.float32), r"\(1, 2, 0, 8\) float32"),
        (np.zeros((1, 6, 8), np.uint8), r"\(1, 6, 8\) uint8"),
    ],
)
def test_what_an_engine_must_not_return(predictor: Predictor, result: NDArray[np.generic], given: str) -> None:
    broken = replace(predictor, engine=lambda _: result)
    with pytest.raises(CheckpointError, match=rf"brightness on function gave {given} .* \(1, 2, height, width\)") as e:
        broken.masks([np.zeros((6, 8, 3), np.uint8)])
    assert e.value.code == "engine-output"


def test_a_masks_engine_must_return_whole_numbers(predictor: Predictor) -> None:
    broken = replace(predictor, engine=lambda _: np.zeros((1, 6, 8), np.float32), output="mask")
    with pytest.raises(CheckpointError, match="whole numbers"):
        broken.masks([np.zeros((6, 8, 3), np.uint8)])


def test_windows_are_not_taken_for_other_failures() -> None:
    assert not is_out_of_memory(ValueError("shapes do not match"))
    assert find_protocol("whole").window is None


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_being_stopped_is_no_failure_of_a_image(predictor: Predictor, images: Path, stop: type[BaseException]) -> None:
    def engine(_: NDArray[np.float32]) -> NDArray[np.float32]:
        raise stop

    with pytest.raises(stop):
        predict_folder("set", "out", replace(predictor, engine=engine))


# -- leftovers


def test_leftovers_of_a_killed_process_go_at_the_next_start_and_a_living_ones_stay(
    predictor: Predictor, images: Path
) -> None:
    Path("out").mkdir()
    dead, folder = Path(f"out/{PARTIAL_PREFIX}dead.png"), Path(f"out/{PARTIAL_PREFIX}folder")
    dead.write_bytes(b"half")
    folder.mkdir()
    (folder / "m.xml").write_bytes(b"half")
    foreign = Path(f"out/{PARTIAL_PREFIX}living.png")
    program = f"import fcntl; f = open({str(foreign)!r}, 'w'); fcntl.flock(f, 2); print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        with replacing("out/mine.png") as mine:
            predict_folder("set", "out", predictor, save="mask")
            assert not dead.exists() and not folder.exists()
            assert foreign.exists() and mine.exists()
        child.kill()
    clear_stale(Path("out"))
    assert sorted(os.listdir("out")) == ["1_mask.png", "2_mask.png", "mine.png"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_at_once_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    program = textwrap.dedent(
        f"""
        import hashlib, signal
        signal.signal({int(number)}, signal.SIG_DFL)  # whatever runs the tests may ignore it, as nohup does
        from terrazzo.cli.stopping import stopped_cleanly
        from terrazzo.atomic import replacing, replacing_folder, replacing_together
        from pathlib import Path
        with stopped_cleanly(), replacing("{tmp_path}/a.png") as a, replacing_together([Path("{tmp_path}/b.xml")]) as b:
            with replacing_folder("{tmp_path}/c") as c:
                b[0].write_bytes(b"half")
                print("ready", flush=True)
                hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)  # where Python's own handlers would wait
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        assert len(os.listdir(tmp_path)) == 3
        child.send_signal(number)
        try:
            assert child.wait(timeout=200) == 128 + number
        finally:
            child.kill()
    assert os.listdir(tmp_path) == []


def test_messages_name_the_destination(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught, replacing(tmp_path / "m.onnx") as partial:
        raise OutputError(f"{partial}: {partial.name} is full", fix=f"remove {partial}")
    assert caught.value.message == f"{tmp_path}/m.onnx: m.onnx is full"
    assert caught.value.fix == f"remove {tmp_path}/m.onnx" and PARTIAL_PREFIX not in str(caught.value)


def test_no_lock_outlives_its_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.png") as partial:
        partial.write_bytes(b"x")
    with open(tmp_path / "a.png", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# -- networks in training


@pytest.fixture(scope="module")
def in_training() -> TrainedModel:
    torch.manual_seed(0)
    return TrainedModel("segformer_b0", create_model("segformer_b0", 2), LABELS, Preprocess(), {})


CALLS: dict[str, Callable[[TrainedModel, Path], object]] = {
    "predict": lambda model, _: terrazzo.predict(np.zeros((32, 32, 3), np.uint8), model),
    "predict_folder": lambda model, folder: terrazzo.predict_folder(folder / "set/1.jpg", folder / "out", model),
    "attention_maps": lambda model, _: terrazzo.attention_maps(np.zeros((32, 32, 3), np.uint8), model),
    "receptive_fields": lambda model, _: terrazzo.receptive_fields(np.zeros((32, 32, 3), np.uint8), model, window=16),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_network_in_training_stays_in_training(in_training: TrainedModel, images: Path, call: str) -> None:
    network = in_training.network
    network.train()
    network.encoder.eval()  # frozen on purpose
    before = [module.training for module in network.modules()]
    CALLS[call](in_training, images.parent)
    assert [module.training for module in network.modules()] == before

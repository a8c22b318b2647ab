"""Which engine is taken, that conversions are kept, and that exported files do everything but what needs torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import terrazzo
from terrazzo.cli.main import main
from terrazzo.engines import openvino as openvino_engine
from terrazzo.engines import torch as torch_engine
from terrazzo.engines.auto import Workload
from terrazzo.engines.cache import cache_folder
from terrazzo.engines.conversion_cache import FallingBack, convert_once, kept_conversions
from terrazzo.engines.engine import ENGINES
from terrazzo.engines.onnxruntime import OnnxRuntimeEngine
from terrazzo.engines.openvino import OpenVINOEngine
from terrazzo.engines.precision_trial import PrecisionTrial
from terrazzo.engines.torch import TorchEngine
from terrazzo.errors import CheckpointError, ConfigError, MissingExtraError
from terrazzo.graphs.onnx import write_onnx
from terrazzo.inference import predict
from terrazzo.inference.predict import make_predictor
from terrazzo.labels.spec import LabelSpec
from terrazzo.models import setr
from terrazzo.preprocess import Preprocess
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, save_folder

LABELS = LabelSpec.from_names(["sky", "road", "tree"])
MANY = Workload(500, (480, 640), repeatable=True)  # so that the precision does not depend on the processor
MANY_OF_ONE_SIZE = replace(MANY, one_size=True)
ORT = ENGINES["onnxruntime"]
CONVERTING = [name for name in ENGINES if ENGINES[name].runs_conversions]
FIND_SPEC = "terrazzo.engines.engine.find_spec"


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    torch.manual_seed(0)
    network = create_model("segformer_b0", 3).eval()
    return TrainedModel("segformer_b0", network, LABELS, Preprocess(), {"licence": "mine"}, "tiny")


@pytest.fixture(scope="module")
def folder(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_folder(path, trained)
    return path


@pytest.fixture(scope="module")
def exported(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    write_onnx(trained, path)
    return path


@pytest.fixture(scope="module")
def common_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def surroundings(common_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This file's cache, no GPU, and one thread."""
    monkeypatch.setenv("TERRAZZO_CACHE", str(common_cache))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(predict, "gpu_at_hand", lambda: False)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(coarse).resize((83, 61), Image.Resampling.BICUBIC).save(path)
    return path


def engine_of(model: str | Path | TrainedModel, **options: object) -> type:
    engine = make_predictor(model, **options).engine  # type: ignore[arg-type]
    return type(engine.converted if isinstance(engine, FallingBack) else engine)


# -- auto -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("empty_cache")
def test_few_images_are_converted_for_the_next_start_and_many_are_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine_of(folder, workload=MANY) is TorchEngine
    assert not cache_folder().exists()
    assert engine_of(folder) is TorchEngine
    assert kept_conversions(folder)
    assert engine_of(folder) is OnnxRuntimeEngine
    assert engine_of(str(folder)) is OnnxRuntimeEngine
    assert engine_of(folder, workload=MANY) is TorchEngine
    monkeypatch.setattr(torch, "compile", lambda network: network)
    assert engine_of(folder, compiled=True) is TorchEngine
    assert engine_of(folder, precision="bf16") is TorchEngine


@pytest.mark.usefixtures("empty_cache")
def test_many_images_of_one_size_are_openvinos(
    folder: Path, trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine_of(folder, workload=MANY_OF_ONE_SIZE) is OpenVINOEngine  # converted on the way
    assert engine_of(folder, workload=MANY_OF_ONE_SIZE) is OpenVINOEngine
    assert engine_of(trained, workload=MANY_OF_ONE_SIZE) is TorchEngine
    assert engine_of(folder, workload=replace(MANY_OF_ONE_SIZE, size=(1024, 2048))) is OpenVINOEngine
    monkeypatch.setattr(FIND_SPEC, lambda name: None if name == "openvino" else True)
    assert engine_of(folder, workload=MANY_OF_ONE_SIZE) is TorchEngine
    monkeypatch.undo()
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(predict, "gpu_at_hand", lambda: False)
    assert engine_of(folder, workload=MANY_OF_ONE_SIZE) is TorchEngine


@pytest.mark.usefixtures("empty_cache")
def test_a_network_that_would_be_traced_is_not_converted_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.onnx, "export", lambda *_args, **_options: pytest.fail("tracing takes minutes"))
    network = create_model("fcn", 3, encoder="mit_b0").eval()
    save_folder(tmp_path / "model", TrainedModel("fcn", network, LABELS, Preprocess()))
    for workload in (Workload(), MANY_OF_ONE_SIZE):
        assert engine_of(tmp_path / "model", workload=workload) is TorchEngine
    assert not cache_folder().exists()


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_bfloat16_is_tried_for_many_images_on_a_processor_that_has_it(
    folder: Path, exported: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opens(model: Path, **options: Any) -> bool:
        made = make_predictor(model, "cpu", engine=engine, **{"workload": Workload(500), **options}).engine
        return isinstance(made.converted if isinstance(made, FallingBack) else made, PrecisionTrial)

    for has_it in (True, False):
        monkeypatch.setattr(torch_engine, "multiplies_bfloat16", lambda has_it=has_it: has_it)
        monkeypatch.setattr(openvino_engine, "_multiplies_bfloat16", lambda _core, has_it=has_it: has_it)
        for model in (folder, exported) if engine == "openvino" else (folder,):
            assert opens(model) == has_it
            assert not opens(model, precision="fp32")
            assert not opens(model, workload=Workload())
            assert not opens(model, workload=MANY)


def test_a_workload_is_of_one_size_where_a_sample_of_the_images_is(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:02}.png" for number in range(25)]
    for path in paths:
        Image.new("RGB", (30, 20)).save(path)
    assert Workload.of(paths) == Workload(25, (20, 30), one_size=True)
    paths[0].write_bytes(b"no photo")
    assert Workload.of(paths) == Workload(25, (20, 30), one_size=True)
    Image.new("RGB", (31, 20)).save(paths[24])
    assert Workload.of(paths) == Workload(25, (20, 30), one_size=False)
    assert Workload.of(paths[:1]) == Workload(1)
    assert Workload.of([]) == Workload(0)


@pytest.mark.usefixtures("empty_cache")
def test_without_a_runtime_or_a_place_to_keep_it_auto_is_pytorch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert engine_of(folder) is TorchEngine
    (tmp_path / "cache").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(FIND_SPEC, lambda name: None)
        patch.setattr(predict, "kept_conversions", lambda model: pytest.fail("hashes the weights for nothing"))
        assert engine_of(folder) is TorchEngine
    assert not kept_conversions(folder)
    monkeypatch.setattr(FIND_SPEC, lambda name: name == "openvino" or None)
    assert engine_of(folder) is TorchEngine
    assert engine_of(folder) is OpenVINOEngine


@pytest.mark.usefixtures("empty_cache")
def test_a_loaded_model_and_a_gpu_are_pytorchs(
    trained: TrainedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine_of(trained) is TorchEngine
    assert not cache_folder().exists()
    convert_once(folder, trained, ORT)
    monkeypatch.setattr(predict, "gpu_at_hand", lambda: True)
    assert engine_of(folder) is TorchEngine
    assert engine_of(folder, device="cpu") is OnnxRuntimeEngine


def test_an_onnx_file_runs_on_what_is_installed(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_of(exported) is OnnxRuntimeEngine
    assert engine_of(exported, engine="openvino") is OpenVINOEngine
    monkeypatch.setattr(FIND_SPEC, lambda name: name == "openvino" or None)
    assert engine_of(exported) is OpenVINOEngine


# -- conversions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", CONVERTING)
@pytest.mark.usefixtures("empty_cache")
def test_an_engine_that_is_asked_for_runs_a_kept_conversion(engine: str, folder: Path, trained: TrainedModel) -> None:
    predictor = make_predictor(folder, engine=engine)
    (kept,) = cache_folder().glob("*.onnx")
    assert (predictor.labels, predictor.preprocess, predictor.model) == (LABELS, Preprocess(), str(folder))
    assert dict(predictor.record) == {"licence": "mine"}
    modified = kept.stat().st_mtime_ns
    make_predictor(folder, engine=engine)
    assert kept.stat().st_mtime_ns == modified
    convert_once(trained, trained, ORT)  # in memory it is another entry
    assert len(list(cache_folder().glob("*.onnx"))) == 2


@pytest.mark.usefixtures("empty_cache")
def test_a_conversion_of_earlier_graphs_is_not_used(
    folder: Path, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = convert_once(folder, trained, ORT)
    monkeypatch.setattr("terrazzo.engines.conversion_cache.GRAPHS_VERSION", 1000)
    assert not kept_conversions(folder)
    assert convert_once(folder, trained, ORT) != old


@pytest.mark.usefixtures("empty_cache")
def test_networks_with_the_same_tensors_and_other_heads_are_told_apart() -> None:
    paths = set()
    for heads in (2, 4):
        torch.manual_seed(0)
        size = {"embed_dim": 24, "depth": 2, "num_heads": heads}
        spec = setr.setr_spec("setr_naive_tiny", size, "naive", (2,), (), False)
        network = create_model(spec, 3, image_size=(32, 32)).eval()
        paths.add(convert_once("x", TrainedModel("setr_naive_tiny", network, LABELS, Preprocess()), ORT))
    assert len(paths) == 2


@pytest.mark.usefixtures("empty_cache")
def test_a_conversion_is_of_these_weights_and_labels_and_no_others(
    folder: Path, trained: TrainedModel, tmp_path: Path
) -> None:
    convert_once(folder, trained, ORT)
    copy = tmp_path / "copy"
    save_folder(copy, trained)
    assert kept_conversions(copy) == kept_conversions(folder) != {}
    save_folder(copy, replace(trained, labels=LabelSpec.from_names(["a", "b", "c"])))
    assert not kept_conversions(copy)
    save_folder(copy, trained)
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    assert not kept_conversions(copy)
    with pytest.raises(CheckpointError):
        make_predictor(copy, engine="onnxruntime")


@pytest.mark.usefixtures("empty_cache")
def test_a_damaged_conversion_is_made_anew(folder: Path, photo: Path) -> None:
    expected = terrazzo.predict(photo, folder, engine="onnxruntime").mask
    (kept,) = cache_folder().glob("*.onnx")
    kept.write_bytes(kept.read_bytes()[:1000])
    assert np.array_equal(terrazzo.predict(photo, folder, engine="onnxruntime").mask, expected)
    assert kept.stat().st_size > 1000


def test_images_too_small_for_a_graph_of_free_sizes_go_through_pytorch(folder: Path) -> None:
    tiny = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    expected = terrazzo.predict(tiny, folder, engine="torch").mask
    for engine in ("onnxruntime", "openvino"):
        predictor = make_predictor(folder, engine=engine)
        for _ in range(2):
            assert np.array_equal(predictor.masks([tiny])[0], expected)


# -- what is the same on every engine ---------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["whole", "slide", pytest.param("multi-scale", marks=pytest.mark.slow)])
def test_masks_are_the_same_whatever_computes_them(protocol: str, folder: Path, photo: Path, exported: Path) -> None:
    expected = terrazzo.predict(photo, folder, engine="torch", protocol=protocol, probabilities=True)
    assert expected.probabilities is not None
    top = np.sort(expected.probabilities, axis=0)
    clear = top[-1] - top[-2] > 1e-4
    assert clear.mean() > 0.99
    for model, engine in [(exported, "onnxruntime"), (folder, "openvino")]:
        result = terrazzo.predict(photo, model, engine=engine, protocol=protocol, probabilities=True)
        assert np.array_equal(result.mask[clear], expected.mask[clear])
        assert result.probabilities is not None
        np.testing.assert_allclose(result.probabilities, expected.probabilities, atol=1e-4)


def test_many_images_come_in_order_from_several_streams(exported: Path, tmp_path: Path) -> None:
    images = []
    for number in range(9):
        size = (40, 50) if number % 3 else (50, 40)
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        images.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(images[-1])
    predictor = make_predictor(exported)
    alone = [predictor.segment_files([path]) for path in images]
    expected = [next(results).mask for results in alone]  # type: ignore[union-attr]
    several = replace(make_predictor(exported, threads=3, workload=Workload(9)), streams=3)
    for batch_size in (1, 2):
        results = list(several.segment_files(images, batch_size=batch_size))
        assert [result.path for result in results] == images
        for result, mask in zip(results, expected, strict=True):
            assert np.mean(result.mask == mask) > 0.999  # type: ignore[union-attr]


def test_evaluating_gives_the_same_report(folder: Path, exported: Path, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "data" / "val" / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)).save(
            tmp_path / "data" / "val" / "images" / f"{number}.png"
        )
        Image.fromarray(rng.integers(0, 3, (40, 52), dtype=np.uint8)).save(
            tmp_path / "data" / "val" / "masks" / f"{number}.png"
        )
    (tmp_path / "data" / "labels.yaml").write_text("names: [sky, road, tree]\n")
    by_torch = terrazzo.evaluate(folder, tmp_path / "data", engine="torch")
    by_file = terrazzo.evaluate(make_predictor(exported, threads=2, workload=MANY), tmp_path / "data")
    assert np.abs(by_torch.confusion - by_file.confusion).sum() <= 6
    main(["evaluate", "--data", str(tmp_path / "data"), "-m", str(exported), "--json", str(tmp_path / "report.json")])
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["model"] == str(exported) and saved["images"] == 3


# -- exported masks ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mask_file(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "mask.onnx"
    write_onnx(trained, path, output="mask")
    return path


def test_a_mask_file_gives_its_masks_as_they_are(mask_file: Path, folder: Path, photo: Path) -> None:
    expected = terrazzo.predict(photo, folder, engine="torch").mask
    mask = terrazzo.predict(photo, mask_file).mask
    assert mask.dtype == np.uint8 and np.mean(mask == expected) > 0.999


def test_a_mask_of_another_size_is_brought_to_the_images_by_the_nearest_pixel(
    trained: TrainedModel, tmp_path: Path, photo: Path
) -> None:
    path = tmp_path / "mask.onnx"
    write_onnx(replace(trained, preprocess=Preprocess(size=(32, 48))), path, output="mask")
    predictor = make_predictor(path)
    image = np.asarray(Image.open(photo))
    (mask,) = predictor.masks([image])
    small = predictor.engine(predictor.preprocess(image)[None])[0]
    expected = np.asarray(Image.fromarray(small).resize((83, 61), Image.Resampling.NEAREST))
    assert mask.shape == (61, 83) and np.array_equal(mask, expected)


def test_what_needs_scores_refuses_a_mask_file(mask_file: Path, photo: Path) -> None:
    for protocol in ("slide", "multi-scale"):
        with pytest.raises(ConfigError, match=protocol) as caught:
            make_predictor(mask_file, protocol=protocol)
        assert caught.value.code == "export-mask"
    with pytest.raises(ConfigError, match="probabilities") as caught:
        terrazzo.predict(photo, mask_file, probabilities=True)
    assert caught.value.code == "export-mask"


# -- without torch ----------------------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import runpy, sys
sys.argv = ["terrazzo", *{arguments}]
try:
    runpy.run_module("terrazzo", run_name="__main__")
except SystemExit as left:
    assert not left.code, left.code
loaded = {{"torch", "onnx", "matplotlib", "transformers"}} & set(sys.modules)
assert not loaded, loaded
"""


@pytest.mark.parametrize("engine", ["auto", *(name for name in ENGINES if not ENGINES[name].imports_torch)])
def test_predicting_with_an_exported_file_never_imports_torch(
    engine: str, exported: Path, photo: Path, tmp_path: Path
) -> None:
    """The command as `python -m terrazzo` runs it, with all of its outputs."""
    arguments = ["predict", str(photo), "--model", str(exported), "--engine", engine, "--output", str(tmp_path / "out")]
    program = WITHOUT_TORCH.format(arguments=arguments)
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_the_second_start_with_a_models_name_does_not_either(folder: Path, photo: Path, tmp_path: Path) -> None:
    make_predictor(folder)
    program = WITHOUT_TORCH.format(arguments=["predict", str(photo), "-m", str(folder), "-o", str(tmp_path / "out")])
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
    assert len(list((tmp_path / "out").iterdir())) == 4


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("empty_cache")
def test_mistakes_are_told(folder: Path, exported: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, code in [
        ({"engine": "tensorflow"}, "engine-name"),
        ({"engine": "openvino", "device": "cuda"}, "engine-device"),
        ({"engine": "onnxruntime", "compiled": True}, "engine-device"),
        ({"engine": "onnxruntime", "device": "mps"}, "engine-device"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "engine-precision"),
        ({"threads": 0}, "engine-threads"),
        ({"threads": 10**20}, "engine-threads"),
        ({"precision": "fp8"}, "engine-precision"),
    ]:
        with pytest.raises(ConfigError) as caught:
            make_predictor(folder, **options)  # type: ignore[arg-type]
        assert caught.value.code == code
    with pytest.raises(ConfigError, match="use --engine onnxruntime") as caught:
        make_predictor(exported, engine="torch")
    assert caught.value.code == "engine-file"
    monkeypatch.setattr(FIND_SPEC, lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[export\]'"):
        make_predictor(folder, engine="openvino")
    assert not cache_folder().exists()


@pytest.mark.parametrize("arguments", [["explain", "PHOTO"], ["convert", "MODEL", "out"], ["train", "--data", "x"]])
def test_what_needs_the_network_itself_refuses_an_exported_file(
    arguments: list[str], exported: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in (".onnx", ".xml", ".pt2"):
        with pytest.raises(CheckpointError) as caught:
            terrazzo.load(exported.rename(exported.with_suffix(suffix)))
        exported.with_suffix(suffix).rename(exported)
        assert caught.value.code == "checkpoint-exported"
    if arguments[0] == "train":
        return
    filled = [{"PHOTO": str(photo), "MODEL": str(exported)}.get(word, word) for word in arguments]
    if arguments[0] == "explain":
        filled += ["--model", str(exported)]
    with pytest.raises(SystemExit) as left:
        main(filled)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error[checkpoint-exported]")

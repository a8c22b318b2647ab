"""ONNX Runtime and OpenVINO on exported files: the network's numbers, from any thread, and what they refuse."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_files import DESCRIPTION, LABELS, logits_of, noise, small_model, write_onnx_file, write_openvino_file

from terrazzo.engines import openvino
from terrazzo.engines.cache import cache_folder
from terrazzo.engines.engine import EngineOptions, available_cores
from terrazzo.engines.onnx_file import describe_onnx
from terrazzo.engines.onnxruntime import OnnxRuntimeEngine
from terrazzo.engines.openvino import KEPT_SIZES, OpenVINOEngine
from terrazzo.errors import CheckpointError, ConfigError, MissingExtraError, TerrazzoError
from terrazzo.notes import TerrazzoWarning

ENGINES = [OnnxRuntimeEngine, OpenVINOEngine]
Kind = type[OnnxRuntimeEngine] | type[OpenVINOEngine]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("options", [EngineOptions(), EngineOptions(threads=2, streams=2)])
def test_an_onnx_file_gives_the_networks_numbers_and_says_what_it_is(
    kind: Kind, options: EngineOptions, tmp_path: Path
) -> None:
    engine = kind(write_onnx_file(tmp_path), options)
    assert engine.description == DESCRIPTION
    for size in [(1, 40, 56), (3, 33, 47), (1, 1, 1)]:
        images = noise(*size)
        logits = engine(images)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, logits_of(images), atol=1e-5)


def test_openvinos_own_file_does_too(tmp_path: Path) -> None:
    path = write_openvino_file(tmp_path)
    (tmp_path / "small.onnx").unlink()
    engine = OpenVINOEngine(path)
    assert engine.description == DESCRIPTION
    images = noise(2, 37, 41)
    np.testing.assert_allclose(engine(images), logits_of(images), atol=1e-5)


@pytest.mark.parametrize("kind", ENGINES)
def test_several_threads_may_call_at_once_and_keep_what_they_got(kind: Kind, tmp_path: Path) -> None:
    engine = kind(write_onnx_file(tmp_path), EngineOptions(threads=2, streams=2))
    inputs = [noise(1 + n % 2, 20 + n, 40 - n, seed=n) for n in range(12)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(engine, inputs))
    for images, logits in zip(inputs, results, strict=True):
        np.testing.assert_allclose(logits, logits_of(images), atol=1e-5)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_mask_file_gives_classes_at_the_inputs_size(kind: Kind, tmp_path: Path) -> None:
    engine = kind(write_onnx_file(tmp_path, small_model(output="mask")))
    assert engine.description.output == "mask"
    mask = engine(noise(2, 21, 34))
    assert mask.shape == (2, 21, 34) and mask.max() < LABELS.num_classes


@pytest.mark.parametrize("kind", ENGINES)
def test_a_size_that_the_file_was_not_made_for_is_refused_before_running(kind: Kind, tmp_path: Path) -> None:
    """FAULTS 76."""
    engine = kind(write_onnx_file(tmp_path, small_model(sides=(32, "W"))))
    engine(noise(1, 32, 45))
    with pytest.raises(ConfigError, match="takes a height of 32, and this one is 33") as caught:
        engine(noise(1, 33, 45))
    assert caught.value.code == "export-size"
    engine = kind(write_onnx_file(tmp_path, small_model(replace(DESCRIPTION, minimum_side=29))))
    with pytest.raises(ConfigError, match="width of 29 or more, and this one is 28"):
        engine(noise(1, 40, 28))


def test_openvinos_ranges_are_kept_to(tmp_path: Path) -> None:
    import openvino as ov

    network = ov.Core().read_model(write_openvino_file(tmp_path))
    network.reshape([ov.Dimension(1, 2), 3, ov.Dimension(16, 64), -1])
    path = tmp_path / "ranged.xml"
    ov.save_model(network, path, compress_to_fp16=False)
    engine = OpenVINOEngine(path)
    assert engine(noise(2, 64, 200)).shape == (2, 3, 16, 50)
    for size, words in [((3, 32, 32), "batch of 1 to 2"), ((1, 15, 32), "height of 16 to 64"), ((1, 65, 9), "65")]:
        with pytest.raises(ConfigError, match=words):
            engine(noise(*size))


# -- files that must not be trusted -----------------------------------------------------------------------------------


def with_weights_in(folder: Path, location: str) -> Path:
    model = small_model()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
    weights = model.graph.initializer[0].raw_data
    model.graph.initializer[0].ClearField("raw_data")
    path = folder / "models" / "small.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString())
    (folder / "secret.bin").write_bytes(weights)
    return path


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "..\\secret.bin", "C:\\secret.bin", "link.bin"])
def test_weights_outside_the_files_folder_are_not_read(kind: Kind, location: str, tmp_path: Path) -> None:
    """FAULTS 78."""
    path = with_weights_in(tmp_path, location)
    (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(CheckpointError, match="outside its own folder") as caught:
        kind(path)
    assert caught.value.code == "export-outside"


def test_weights_deep_in_the_graph_are_found_too(tmp_path: Path) -> None:
    """A tensor in an attribute of a node in a branch of an If."""
    model = small_model()
    tensor = onnx.numpy_helper.from_array(np.zeros(2, np.float32), "hidden")
    onnx.external_data_helper.set_external_data(tensor, "../../secret.bin")
    tensor.ClearField("raw_data")
    branch = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["c"], value=tensor)], "b", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["images"], ["d"], then_branch=branch, else_branch=branch))
    with pytest.raises(CheckpointError, match="secret"):
        describe_onnx(write_onnx_file(tmp_path, model))


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("location", ["*/_ORT_MEM_ADDR_/*", "./*/_ORT_MEM_ADDR_/*", "a\0b", "", "fifo", "x" * 5000])
def test_weights_that_lie_in_no_file_are_not_read(kind: Kind, location: str, tmp_path: Path) -> None:
    """Runtimes mark weights in their own memory by a location, and would read whatever is at the offset."""
    path = with_weights_in(tmp_path, location)
    (path.parent / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (path.parent / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(bytes(4 * 81))
    os.mkfifo(path.parent / "fifo")
    with pytest.raises(CheckpointError, match="its weights") as caught:
        kind(path)
    assert caught.value.code == "export-damaged"


@pytest.mark.parametrize("kind", ENGINES)
def test_operators_of_other_libraries_are_told(kind: Kind, tmp_path: Path) -> None:
    """Also those that name a file to load: an EPContext holds a compiled network of another engine."""
    for domain, name, values in [
        ("com.microsoft", "EPContext", {"embed_mode": 0, "ep_cache_context": "../secret.bin", "main_context": 1}),
        ("ai.onnx.contrib", "PyOp", {}),
        ("strangers", "Evil", {}),
    ]:
        model = small_model()
        model.graph.node.insert(0, onnx.helper.make_node(name, ["images"], ["evil"], domain=domain, **values))
        model.graph.node[1].input[0] = "evil"
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
        with pytest.raises(CheckpointError) as caught:
            kind(write_onnx_file(tmp_path, model))
        assert caught.value.code == "export-damaged"


@pytest.mark.parametrize("kind", ENGINES)
def test_weights_beside_the_file_are_read_and_missed(kind: Kind, tmp_path: Path) -> None:
    path = with_weights_in(tmp_path, "weights/small.bin")
    with pytest.raises(CheckpointError, match="not beside it"):
        kind(path)
    (path.parent / "weights").mkdir()
    (tmp_path / "secret.bin").rename(path.parent / "weights" / "small.bin")
    images = noise(1, 24, 24)
    np.testing.assert_allclose(kind(path)(images), logits_of(images), atol=1e-5)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_told_and_never_crashes(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(small_model().SerializeToString())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
            content[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "small.onnx"
    path.write_bytes(content)
    try:
        OnnxRuntimeEngine(path)
    except TerrazzoError as error:
        assert str(path) in str(error)


def test_sizes_whose_names_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    content = small_model().SerializeToString()
    name = b"\x12\x01W"  # a size that is free, and called W
    assert name in content
    path.write_bytes(content.replace(name, b"\x12\x01\xd7"))
    with pytest.raises(CheckpointError) as caught:
        OnnxRuntimeEngine(path)
    assert caught.value.code == "export-damaged"


def test_what_is_no_exported_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    for content in (b"", b"not a model", b"\x08\x0a"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            describe_onnx(path)
        assert caught.value.code == "export-damaged"
    with pytest.raises(CheckpointError) as caught:
        describe_onnx(tmp_path / "nowhere.onnx")
    assert caught.value.code == "checkpoint-missing"
    for kind in ENGINES:
        with pytest.raises(CheckpointError) as caught:
            kind(write_onnx_file(tmp_path, small_model(None)))
        assert caught.value.code == "export-foreign"
    other = small_model()
    other.graph.input[0].name = other.graph.node[0].input[0] = "pixels"
    for kind in ENGINES:
        with pytest.raises(CheckpointError, match="takes 'pixels'"):
            kind(write_onnx_file(tmp_path, other))


def test_openvinos_files_are_told_too(tmp_path: Path) -> None:
    path = write_openvino_file(tmp_path)
    text = path.read_text()
    for content, code in [(text[:900], "export-damaged"), ("", "export-damaged"), (None, "export-damaged")]:
        if content is None:
            path.write_text(text)
            path.with_suffix(".bin").unlink()
        else:
            path.write_text(content)
        with pytest.raises(CheckpointError) as caught:
            OpenVINOEngine(path)
        assert caught.value.code == code
    with pytest.raises(CheckpointError) as caught:
        OpenVINOEngine(write_openvino_file(tmp_path, small_model(None), described=False))
    assert caught.value.code == "export-foreign"
    path.write_bytes(small_model().SerializeToString())  # which OpenVINO would read under any name
    path.with_suffix(".bin").touch()
    with pytest.raises(CheckpointError, match="it is not an OpenVINO model"):
        OpenVINOEngine(path)
    path.write_text('<!DOCTYPE net [<!ENTITY a SYSTEM "/etc/hostname">]><net name="&a;" version="11"/>')
    with pytest.raises(CheckpointError, match="it is not an OpenVINO model"):
        OpenVINOEngine(path)
    with pytest.raises(CheckpointError) as caught:
        OpenVINOEngine(tmp_path / "nowhere.xml")
    assert caught.value.code == "checkpoint-missing"


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "package"), [(OnnxRuntimeEngine, "onnxruntime"), (OpenVINOEngine, "openvino")])
def test_a_missing_package_names_the_extra(
    kind: Kind, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError) as caught:
        kind(write_onnx_file(tmp_path))
    assert package in caught.value.message and ".[export]" in caught.value.fix


def test_openvino_stays_in_float32_where_the_processor_has_no_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ov = pytest.importorskip("openvino")

    class Core(ov.Core):  # type: ignore[misc]
        def get_property(self, device: str, name: str) -> Any:
            return ["FP32"] if name == "OPTIMIZATION_CAPABILITIES" else super().get_property(device, name)

    monkeypatch.setattr(ov, "Core", Core)
    path, images = write_onnx_file(tmp_path), noise(1, 24, 24)
    with pytest.warns(TerrazzoWarning, match="no bfloat16 instructions: the network is computed in float32"):
        engine = OpenVINOEngine(path, EngineOptions(precision="bf16"))
    assert np.array_equal(engine(images), OpenVINOEngine(path)(images))


def test_what_an_engine_cannot_do_is_told(tmp_path: Path) -> None:
    path = write_onnx_file(tmp_path)
    with pytest.raises(ConfigError) as caught:
        OnnxRuntimeEngine(path, EngineOptions(precision="bf16"))
    assert caught.value.code == "engine-precision"
    with pytest.raises(ConfigError) as caught:
        OnnxRuntimeEngine(path, device="cuda")
    assert caught.value.code == "engine-device"
    for values in ({"threads": 0}, {"streams": 0}):
        with pytest.raises(ConfigError) as caught:
            EngineOptions(**values)
        assert caught.value.code == "engine-threads"


def test_threads_are_shared_among_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EngineOptions(threads=7, streams=3).threads_per_stream == 2
    assert EngineOptions(threads=1, streams=3).all_threads == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert available_cores() == EngineOptions().all_threads == 5
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert available_cores() >= 1


# -- OpenVINO's compiled networks are kept ----------------------------------------------------------------------------


def test_a_compiled_network_is_kept_and_a_damaged_one_made_anew(tmp_path: Path) -> None:
    path, images = write_onnx_file(tmp_path), noise(1, 30, 30)
    expected = OpenVINOEngine(path)(images)
    (kept,) = cache_folder().iterdir()
    intact, modified = kept.read_bytes(), kept.stat().st_mtime_ns
    assert np.array_equal(OpenVINOEngine(path)(images), expected)
    assert kept.stat().st_mtime_ns == modified
    kept.write_bytes(intact[: len(intact) // 2])
    assert np.array_equal(OpenVINOEngine(path)(images), expected)
    assert len(list(cache_folder().iterdir())) == 1 and kept.stat().st_size >= len(intact) - 100
    OpenVINOEngine(path, EngineOptions(threads=2, streams=2))(images)
    assert len(list(cache_folder().iterdir())) == 2


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path / "file"))
    images = noise(1, 30, 30)
    np.testing.assert_allclose(OpenVINOEngine(write_onnx_file(tmp_path))(images), logits_of(images), atol=1e-5)


@pytest.mark.parametrize("write", [write_onnx_file, write_openvino_file])
def test_what_compiles_faster_than_it_is_read_is_not_kept(
    write: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, images = write(tmp_path), noise(1, 30, 30)
    files = {path, path.with_suffix(".bin") if path.suffix == ".xml" else path}
    size = sum(file.stat().st_size for file in files)
    monkeypatch.setattr(openvino, "LARGEST_KEPT", size - 1)
    np.testing.assert_allclose(OpenVINOEngine(path)(images), logits_of(images), atol=1e-5)
    assert not cache_folder().exists()
    monkeypatch.setattr(openvino, "LARGEST_KEPT", size)
    OpenVINOEngine(path)(images)
    assert len(list(cache_folder().iterdir())) == 1


# -- OpenVINO compiles for the sizes that it sees ---------------------------------------------------------------------


class CountedEngine(OpenVINOEngine):
    """Says for which shapes it compiled and imported, None being any."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.compiled: list[tuple[int, ...] | None] = []
        self.imported: list[tuple[int, ...] | None] = []

    def _compile(self, shape: tuple[int, ...] | None) -> Any:
        self.compiled.append(shape)
        return super()._compile(shape)

    def _imported(self, shape: tuple[int, ...] | None) -> Any:
        if (network := super()._imported(shape)) is not None:
            self.imported.append(shape)
        return network


def show(engine: OpenVINOEngine, *widths: int) -> None:
    for seed, width in enumerate(widths):
        images = noise(1, 32, width, seed)
        np.testing.assert_allclose(engine(images), logits_of(images), atol=1e-5)


def shapes(*widths: int) -> list[tuple[int, ...]]:
    return [(1, 3, 32, width) for width in widths]


def test_a_size_gets_a_network_of_its_own_when_it_comes_again(tmp_path: Path) -> None:
    engine = CountedEngine(write_onnx_file(tmp_path))
    show(engine, 40, 48, 40, 48, 40, 48, 40)
    assert engine.compiled == [None, *shapes(40, 48)]
    again = CountedEngine(engine.path)
    show(again, 48, 48, 40, 48, 40)
    assert again.compiled == [] and again.imported == [*shapes(48), None, *shapes(40)]


def test_sizes_that_come_too_seldom_share_the_network_for_any(tmp_path: Path) -> None:
    engine = CountedEngine(write_onnx_file(tmp_path))
    widths = [32 + 4 * n for n in range(KEPT_SIZES + 1)]
    show(engine, *widths, *widths, *widths)
    assert engine.compiled == [None]
    show(engine, widths[-1], *widths, *widths)
    assert engine.compiled == [None, *shapes(widths[-1])]
    assert len(engine._latest) == KEPT_SIZES


def test_no_more_sizes_than_are_kept_are_written_to_the_cache(tmp_path: Path) -> None:
    engine = CountedEngine(write_onnx_file(tmp_path))
    widths = [32 + 4 * n for n in range(KEPT_SIZES + 2)]
    show(engine, *(width for width in widths for _ in range(2)))
    assert set(engine.compiled) == {None, *shapes(*widths)}
    assert len(list(cache_folder().iterdir())) == 1 + KEPT_SIZES


def test_a_file_of_one_size_is_compiled_once(tmp_path: Path) -> None:
    model = small_model(sides=(32, 40))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    engine = CountedEngine(write_onnx_file(tmp_path, model))
    show(engine, 40, 40, 40)
    assert engine.compiled == [None]


def test_threads_with_sizes_of_their_own_compile_each_once(tmp_path: Path) -> None:
    engine = CountedEngine(write_onnx_file(tmp_path))
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(show, engine, *[width] * 20) for width in (40, 48)]:
            done.result()
    assert len(engine.compiled) == len(set(engine.compiled))
    assert set(engine.compiled) >= set(shapes(40, 48))


@pytest.mark.parametrize("kind", ENGINES)
def test_a_suffix_in_capitals_is_the_same(kind: Kind, tmp_path: Path) -> None:
    path, images = write_onnx_file(tmp_path).rename(tmp_path / "MODEL.ONNX"), noise(1, 24, 24)
    np.testing.assert_allclose(kind(path)(images), logits_of(images), atol=1e-5)

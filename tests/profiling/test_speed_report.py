"""The table that a stranger reads, and the JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from terrazzo.engines.layer_times import LayerTime
from terrazzo.profiling.machine import Times
from terrazzo.profiling.report import EngineSpeed, ImageSpeed, Problem, SpeedReport

TORCH = EngineSpeed(
    engine="torch",
    wall=Times((0.2, 0.1, 0.3)),
    cpu=Times((0.4, 0.2, 0.6)),
    first_start=5.0,
    start=4.0,
    memory=300_000_000,
    difference=0.0,
    differing=0,
    pixels=100_000,
)
REPORT = SpeedReport(
    model="runs/mine",
    architecture="segformer_b0",
    classes=11,
    size=(512, 1024),
    batch_size=2,
    threads=2,
    rounds=3,
    images=0,
    operations=10_000_000_000,
    gemm_peak=200e9,
    processor="A processor",
    load=0.1,
    versions={"torch": "2.13"},
    engines=(TORCH,),
)


LAYERS = (
    LayerTime("Conv_1", "Convolution", "brgconv_avx512_bf16", 0.006),
    LayerTime("Conv_2", "Convolution", "brgconv_avx512_bf16", 0.002),
    LayerTime("MatMul_3", "MatMul", "brgemm_avx512_f32", 0.00197),
    LayerTime("Shape_4", "ShapeOf", "ref_any", 0.00002),
    LayerTime("Shape_5", "Reshape", "ref_any", 0.00001),
)


def test_a_profile_has_kinds_of_layers_and_the_slowest_ones() -> None:
    lines = replace(REPORT, engines=(replace(TORCH, layers=LAYERS),), precision="bf16").table().splitlines()
    assert "batch of 2, bf16" in lines[0]
    assert replace(REPORT, precision="bf16").share_of_peak(TORCH) is None  # the peak is float32's
    start = lines.index("torch by its own counters, 10.0 ms in a pass:")
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[start + 2 :]]
    assert cells[:4] == [
        ["kind of layer", "kernel", "layers", "time", "share"],
        ["Convolution", "brgconv_avx512_bf16", "2", "8.00 ms", "80.0%"],
        ["MatMul", "brgemm_avx512_f32", "1", "1.97 ms", "19.7%"],
        ["others", "2", "0.03 ms", "0.3%"],
    ]
    assert [row[0] for row in cells[6:]] == ["Conv_1", "Conv_2", "MatMul_3", "Shape_4", "Shape_5"]
    assert cells[6] == ["Conv_1", "Convolution", "brgconv_avx512_bf16", "6.00 ms", "60.0%"]


def cells_of(report: SpeedReport, engine: str, number: int = 0) -> list[str]:
    lines = [line for line in report.table().splitlines() if line.startswith(f"{engine} ")]
    return [cell.strip() for cell in lines[number].split("  ") if cell.strip()]


def test_an_engines_row() -> None:
    cells = cells_of(REPORT, "torch")
    assert cells == ["torch", "200 ms", "100 ms", "10", "400 ms", "50%", "300 MB", "4.0 s", "5.0 s", "all"]
    assert "512 x 1024" in REPORT.table() and "2 threads of A processor" in REPORT.table()


def test_every_column_is_explained() -> None:
    text = REPORT.table()
    header = next(line for line in text.splitlines() if line.startswith("engine"))
    legend = text.partition("\n\nmedian")[2]
    for column in ("least", "processor", "of peak", "memory", "start", "first", "same mask"):
        assert column in header and column in legend


@pytest.mark.parametrize(("differing", "words"), [(0, "all"), (1, "all but 1"), (2000, "98.000%"), (None, "-")])
def test_a_single_pixel_is_told(differing: int | None, words: str) -> None:
    speed = replace(TORCH, engine="openvino", differing=differing)
    assert cells_of(replace(REPORT, engines=(speed,)), "openvino")[-1] == words


def test_what_is_not_known_is_a_dash() -> None:
    speed = replace(TORCH, memory=None)
    assert cells_of(replace(REPORT, engines=(speed,), operations=None), "torch")[5:7] == ["-", "-"]


def test_engines_without_figures_say_why() -> None:
    problem = Problem("openvino", "openvino is not installed", "pip install it")
    text = replace(REPORT, problems=(problem,)).table()
    assert text.endswith("openvino: not measured: openvino is not installed\n  fix: pip install it")


def test_a_busy_machine_is_told() -> None:
    assert "busy" not in REPORT.table()
    assert "busy" in replace(REPORT, load=6.5).table()


def test_lines_fit_a_wide_terminal() -> None:
    assert max(map(len, replace(REPORT, load=6.5).table().splitlines())) <= 110


def test_images_have_a_table_of_their_own() -> None:
    images = ImageSpeed(Times((0.5, 0.5)), Times((0.6, 0.7)), differing=3, pixels=1000)
    report = replace(REPORT, images=2, engines=(replace(TORCH, images=images),))
    assert cells_of(report, "torch", 1) == ["torch", "500 ms", "500 ms", "2", "650 ms", "all but 3"]
    assert "2 in all" in report.table()


def test_json_holds_everything() -> None:
    values = json.loads(REPORT.to_json())
    (engine,) = values["engines"]
    assert engine["wall"]["seconds"] == [0.2, 0.1, 0.3]
    assert engine["median"] == 0.2 and engine["photos_per_second"] == 10 and engine["share_of_gemm_peak"] == 0.5
    assert values["size"] == [512, 1024] and values["problems"] == []

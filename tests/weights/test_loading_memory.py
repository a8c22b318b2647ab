"""Loading takes about as much memory as the file has bytes, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from foreign_files import meta_network
from terrazzo.weights.recognize import shapes_of
from terrazzo.weights.remap.layout import Layout
from terrazzo.weights.remap.segformer import HF4, NVLABS, OURS
from terrazzo.weights.remap.setr import MLA, MMSEG_MLA, NAIVE, OURS_PUP, PUP

PROGRAM = """
import sys
from terrazzo.weights.load import load

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

load("segformer_b0.camvid")  # what Python and PyTorch need once
open("/proc/self/clear_refs", "w").write("5")  # the peak is counted from here
before = kilobytes("VmRSS")
model = load(sys.argv[1])
print((kilobytes("VmHWM") - before) * 1024)
"""


def peak_over_size(path: Path, layout: Layout, architecture: str, grid: tuple[int, int] | None = None) -> float:
    """Write a checkpoint, load it in a process of its own, and return the peak in units of the file."""
    shapes = layout.their_shapes(shapes_of(meta_network(architecture, 19, grid).state_dict()))
    state = {key: torch.full(shape, 0.5) for key, shape in shapes.items()}
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    del state
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    size = path.stat().st_size
    path.unlink()
    assert size > 100_000_000
    return int(done.stdout) / size


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("layout", "suffix"), [(NVLABS, "pth"), (HF4, "safetensors"), (HF4, "bin"), (OURS, "safetensors")]
)
def test_the_peak_is_below_1_3_times_the_file(tmp_path: Path, layout: Layout, suffix: str) -> None:
    assert 0.9 < peak_over_size(tmp_path / f"model.{suffix}", layout, "segformer_b2") < 1.3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    ("layout", "architecture"),
    [
        (MLA, "setr_mla_large"),
        (PUP, "setr_pup_large"),
        (NAIVE, "setr_naive_large"),
        (MMSEG_MLA, "setr_mla_large_mmseg"),
        (OURS_PUP, "setr_pup_large"),
    ],
)
def test_so_it_is_with_300_million_parameters(tmp_path: Path, layout: Layout, architecture: str, suffix: str) -> None:
    """With auxiliary heads, at 768 x 768: files of 1.2 GB."""
    peak = peak_over_size(tmp_path / f"model.{suffix}", layout, architecture, grid=(48, 48))
    print(f"{layout.name}, {architecture}, {suffix}: {peak:.3f}")  # shown by `pytest -rP`
    assert 0.9 < peak < 1.3

"""Loading takes about as much memory as the file has bytes, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from terrazzo.weights.recognize import meta_network, shapes_of
from terrazzo.weights.remap.layout import Layout
from terrazzo.weights.remap.segformer import HF4, NVLABS, OURS

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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("layout", "suffix"), [(NVLABS, "pth"), (HF4, "safetensors"), (HF4, "bin"), (OURS, "safetensors")]
)
def test_the_peak_is_below_1_3_times_the_file(tmp_path: Path, layout: Layout, suffix: str) -> None:
    shapes = layout.their_shapes(shapes_of(meta_network("segformer_b2", 19).state_dict()))
    state = {key: torch.full(shape, 0.5) for key, shape in shapes.items()}
    path = tmp_path / f"model.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(state, path)
    del state
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert path.stat().st_size > 100_000_000
    assert int(done.stdout) < 1.3 * path.stat().st_size

"""`terrazzo benchmark`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from terrazzo.cli.engine import engine_names
from terrazzo.cli.progress import progress_bar
from terrazzo.cli.say import say
from terrazzo.engines.engine import Precision, available_cores
from terrazzo.engines.measured import kept_speeds
from terrazzo.errors import ConfigError
from terrazzo.imaging.find_images import find_images
from terrazzo.ownership import check_outputs, write_result
from terrazzo.weights.catalog import DEFAULT_MODEL

__all__ = ["benchmark"]

ENGINES_HELP = f"Measure these: {engine_names('and')}, with commas between; or all that are installed."


def benchmark(
    *,
    model: Annotated[str, Parameter(name=["--model", "-m"])] = DEFAULT_MODEL,
    size: str = "512x512",
    batch_size: int = 1,
    engine: Annotated[str, Parameter(help=ENGINES_HELP)] = "all",
    threads: int | None = None,
    device: str | None = None,
    images: Annotated[str | None, Parameter(name="--photos")] = None,
    rounds: int = 10,
    precision: Precision = "fp32",
    profile: Annotated[bool, Parameter(negative=())] = False,
    json: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    trust_file: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Measure how fast a model runs on this machine, with every engine.

    Each engine runs in a process of its own. The engines take turns, so that other load on the machine affects all of
    them alike. The table says how long a pass takes, what it costs in processor time and memory, how close it comes to
    the processor's limit, how long the engine takes to start, and whether the masks are the same.

    The first time it also measures the shipped model at three sizes, half a minute, by which `--engine auto` chooses
    from then on.

    Examples:
        terrazzo benchmark
        terrazzo benchmark --model runs/mine --size 1024x2048 --threads 4
        terrazzo benchmark --engine openvino --photos photos/ --json speed.json
        terrazzo benchmark --engine openvino --precision bf16 --profile

    Parameters
    ----------
    model
        Measure this model: a shipped one, a model folder, the output folder of a training run, a checkpoint file, a hub
        id, or an exported file.
    size
        Give the network images of this height and width.
    batch_size
        Use batches of this many images.
    threads
        Use this many computing threads; by default one for each core.
    device
        Let torch compute on cpu; cuda, cuda:1 or a GPU's number; mps or xpu. By default it is a GPU where there is one.
    images
        Time the way from photo files to mask files too, with the first 50 photos of a file, folder or pattern.
    rounds
        Time this many passes.
    precision
        Compute in fp32; bf16, on processors with bfloat16 instructions; or auto: fp32 on a CPU, and on a GPU float16
        where that finds the same classes.
    profile
        Show where the time goes too: each engine's own counters, by kind of layer, and the ten slowest layers.
    json
        Write all figures, of every single pass too, into this file.
    overwrite
        Replace the --json file even if it is not a result of `terrazzo benchmark`.
    trust_file
        Open a .pt2 file that was not exported here, and remember it: such files can run any code on this machine.
    """
    from terrazzo.profiling.benchmark import benchmark as measure

    sides = re.fullmatch(r"(\d{1,6})[x×](\d{1,6})", size.strip())
    if sides is None:
        raise ConfigError(f"--size is {size!r}", fix="give height and width, as in 512x512")
    if json is not None:
        inputs = [Path(model), *([] if images is None else find_images([images]))]
        check_outputs([json], "benchmark", inputs=inputs, overwrite=overwrite, option="--json")
    engines = "all" if engine == "all" else [name.strip() for name in engine.split(",")]
    with progress_bar("benchmark") as progress:
        report = measure(
            model,
            size=(int(sides[1]), int(sides[2])),
            batch_size=batch_size,
            engines=engines,
            threads=threads,
            device=device,
            images=images,
            rounds=rounds,
            precision=precision,
            profile=profile,
            trust=trust_file,
            progress=progress,
        )
    say(*report.table().split("\n"))
    if json is not None:
        write_result(json, report.to_json().encode("utf-8", "backslashreplace"), "benchmark")
        say("", f"figures written to {json}")
    if engines == "all" and kept_speeds(threads or available_cores()) is None:
        from terrazzo.profiling.choice import measure_choice

        with progress_bar("sizes") as progress:
            speeds = measure_choice(threads, progress)
        fastest = [f"{min(engine, key=engine.__getitem__)} for {h} x {w}" for (h, w), engine in speeds.items()]
        say("", f"for many photos of one size, auto takes {', '.join(fastest)}")

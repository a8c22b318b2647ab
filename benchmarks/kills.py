"""Runs killed while they save: does each go on, and to the same weights?

    python benchmarks/kills.py [--kills 100] [--write]

A small SegFormer is trained on drawn photos, once undisturbed and once killed by SIGKILL over and over. Each kill comes
while a checkpoint is being written, a random part of the time that writing one takes after its begin; then the run is
resumed in a new process. The table says how often a run could not go on, how often the newest checkpoint was damaged,
and whether the weights at the end are those of the undisturbed run, bit for bit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from measure import header, publish, table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "training"))

EPOCHS_PER_KILL = 2


def learn(data: Path, output: Path, epochs: int, resume: bool, saving: Any) -> None:
    """Train, and say when a checkpoint is begun and when it is done."""
    from tiny_runs import tiny_trainer

    from terrazzo.training import loop

    torch.set_num_threads(1)
    write = loop.save_checkpoint

    def told(folder: Path, state: dict[str, Any]) -> None:
        saving.send(("begun", state["step"], time.monotonic()))
        write(folder, state)
        saving.send(("done", state["step"], time.monotonic()))

    loop.save_checkpoint = told  # type: ignore[assignment]
    sys.stderr = open(output.parent / "log.txt", "a")  # noqa: SIM115
    trainer = tiny_trainer(data, output, epochs=epochs, validate_every=1_000_000, patience=None)
    if resume:
        trainer.resume()
    trainer.run()
    saving.send(("ended", trainer.state.step, time.monotonic()))


def killed_while_saving(context: Any, data: Path, output: Path, epochs: int, resume: bool, wait: float) -> str:
    """Start or resume a run, and kill it so many seconds after its next checkpoint is begun; tell what became of it."""
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=learn, args=(data, output, epochs, resume, sending))
    process.start()
    sending.close()
    fate = "did not go on"
    try:
        for _ in range(EPOCHS_PER_KILL):  # so that there is a checkpoint before the one that is broken off
            while receiving.recv()[0] == "done":
                pass
        until = time.monotonic() + wait
        while time.monotonic() < until:
            pass
        os.kill(process.pid, signal.SIGKILL)
        fate = "killed in it"
        while receiving.poll(0.0):
            if receiving.recv()[0] == "done":
                fate = "killed after it"
    except EOFError:
        pass
    process.join()
    return fate


def main() -> None:
    """Kill, resume, compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/kills.md")
    options = parser.parse_args()
    from tiny_runs import make_data

    from terrazzo.training.checkpoint import load_checkpoint

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["terrazzo.training.trainer", "rich.progress", "torch.utils.tensorboard"])
    epochs, draws = EPOCHS_PER_KILL * options.kills + 2, random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder / "data", train=2, val=1)
        receiving, sending = context.Pipe(duplex=False)
        whole = context.Process(target=learn, args=(data, folder / "whole", epochs, False, sending))
        whole.start()
        sending.close()
        times: list[tuple[str, int, float]] = []
        try:
            while True:
                times.append(receiving.recv())
        except EOFError:
            whole.join()
        saves = [done[2] - begun[2] for begun, done in zip(times[::2], times[1::2], strict=False)]
        usual = sorted(saves)[len(saves) // 2]
        fates: list[str] = []
        damaged = 0
        for number in range(options.kills):
            fates.append(
                killed_while_saving(context, data, folder / "killed", epochs, number > 0, draws.uniform(0, 1.1) * usual)
            )
            _, warnings = load_checkpoint(folder / "killed" / "checkpoints")
            damaged += bool(warnings)
        receiving, sending = context.Pipe(duplex=False)
        last = context.Process(target=learn, args=(data, folder / "killed", epochs, True, sending))
        last.start()
        sending.close()
        last.join()
        one, other = (load_checkpoint(folder / run / "checkpoints")[0] for run in ("whole", "killed"))
        alike = all(torch.equal(value, other["model"][key]) for key, value in one["model"].items())
        alike = alike and one["step"] == other["step"]
        rows = [
            ["kills while a checkpoint was written", fates.count("killed in it")],
            ["kills just after it was written", fates.count("killed after it")],
            ["runs that did not go on", fates.count("did not go on")],
            ["newest checkpoints that could not be read", damaged],
            ["weights at the end as without a break, bit for bit", "yes" if alike else "no"],
        ]
    text = header(
        "Runs killed while they save",
        f"python benchmarks/kills.py --kills {options.kills} --write",
        timing=f"{options.kills} kills by SIGKILL, each 0 to 1.1 times the {1000 * usual:.0f} ms after the begin of a "
        "checkpoint that one of this small network takes; then the run is resumed in a new process.\n",
    )
    text += table(["what", "count"], rows)
    publish("kills", text, options.write)


if __name__ == "__main__":
    main()

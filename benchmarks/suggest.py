"""Labels bought by `terrazzo suggest` against labels of random photos: a simulation on CamVid, whose labels are there.

    python benchmarks/suggest.py --data CAMVID --write
    python benchmarks/suggest.py --data CAMVID --start 4 --buy 4 --rounds 1 --epochs 1 --seeds 1 --crop 64 64

A B0 from random weights learns from a few labelled photos. Then, in each round, so many more are labelled: those that
`suggest` chooses by the round's model, or as many at random; and a model learns from all of them. Both begin with the
same photos. What counts is the mIoU on the whole val split after each round, as a mean over the seeds.

The photos of CamVid are frames of a drive, so that many are nearly alike; the photos of other collections may differ
more, and a random choice is then better than here.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the libraries that read it

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import measure
import terrazzo


def main() -> None:
    options = parse()
    images = sorted((Path(options.data) / "train" / "images").iterdir())
    scores: dict[str, list[list[float]]] = {"suggest": [], "random": []}
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        first = rng.choice(len(images), options.start, replace=False).tolist()
        for way, found in scores.items():
            found.append(simulate(way, [images[k] for k in first], images, rng, seed, options))
    labelled = [options.start + options.buy * number for number in range(options.rounds + 1)]
    rows = []
    for place, count in enumerate(labelled):
        cells = []
        for way in scores:
            values = np.array([run[place] for run in scores[way]])
            cells.append(f"{values.mean():.2f} ({', '.join(f'{value:.2f}' for value in values)})")
        rows.append([str(count), *cells])
    command = (
        f"python benchmarks/suggest.py --data CAMVID --start {options.start} --buy {options.buy} --rounds "
        f"{options.rounds} --epochs {options.epochs} --seeds {options.seeds} --crop {options.crop[0]} {options.crop[1]}"
    )
    text = measure.header("Photos chosen by `suggest` and at random, CamVid", command)
    text += "\n\nval mIoU of a B0 from random weights after so many labelled photos: mean, and each seed.\n\n"
    measure.publish("suggest", text + measure.table(["labelled photos", *scores], rows), options.write)


def simulate(
    way: str,
    labelled: list[Path],
    images: Sequence[Path],
    rng: np.random.Generator,
    seed: int,
    options: argparse.Namespace,
) -> list[float]:
    """Label in rounds, and return the mIoU before the first and after each."""
    found: list[float] = []
    for number in range(options.rounds + 1):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            data = with_labels(labelled, Path(options.data), folder / "data")
            overrides = {"run.epochs": options.epochs, "run.seed": seed, "augment.crop.size": options.crop}
            run = terrazzo.train(
                data, folder / "run", options.model, labels="camvid", overrides=overrides, device=options.device
            )
            assert run is not None
            found.append(run.report.metrics.mIoU)
            print(f"seed {seed}, {way}, {len(labelled)} photos: mIoU {found[-1]:.2f}", flush=True)
            if number < options.rounds:
                left = [image for image in images if image not in labelled]
                if way == "random":
                    more = [left[k] for k in rng.choice(len(left), options.buy, replace=False)]
                else:
                    chosen = terrazzo.suggest(
                        left, run.output, budget=options.buy, labelled=labelled, device=options.device
                    )
                    more = [photo.path for photo in chosen.photos]
                labelled = [*labelled, *more]
    return found


def with_labels(labelled: Sequence[Path], source: Path, folder: Path) -> Path:
    """Make a data set of some training photos and the whole val split."""
    for kind, ending in (("images", None), ("masks", ".png")):
        (folder / "train" / kind).mkdir(parents=True)
        for image in labelled:
            name = image.name if ending is None else f"{image.stem}{ending}"
            shutil.copyfile(source / "train" / kind / name, folder / "train" / kind / name)
        shutil.copytree(source / "val" / kind, folder / "val" / kind)
    return folder


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CamVid's folder")
    parser.add_argument("--model", default="segformer_b0")
    parser.add_argument("--start", type=int, default=20, help="labelled photos at the beginning")
    parser.add_argument("--buy", type=int, default=20, help="photos labelled in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--crop", type=int, nargs=2, default=[256, 256])
    parser.add_argument("--device")
    parser.add_argument("--write", action="store_true", help="write the table into results/")
    return parser.parse_args()


if __name__ == "__main__":
    main()

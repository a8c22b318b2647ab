"""What few labels reach with each way of `docs/few_labels.md`, and without: CamVid's drives and a tenth of the nuclei.

    python benchmarks/few_labels.py --camvid CAMVID --nuclei NUCLEI --output runs/few_labels --write
    python benchmarks/few_labels.py --camvid CAMVID --output /tmp/rehearsal --short     # minutes, numbers mean nothing

CamVid: two drives are learnt from and the third is judged, in turn. Of the frames of the two, every eighth keeps its
mask; the others are the photos without masks. Nuclei: every tenth training photo keeps its mask, and the `val` split is
judged. Of the photos with masks, every fifth chooses the epoch, and is not learnt from; what is judged chooses nothing.

Each run leaves a file under `results/`; with the same `--output`, the program goes on where it was, and a run that was
broken off is resumed. The table has mean and standard deviation over seeds and parts, and the mean difference to labels
alone with the same seed and part.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

import terrazzo
from measure import header, publish, table
from terrazzo.data.dataset import Dataset, Sample

DRIVES = ("0001TP", "0016E5", "0006R0")
METHODS = {
    "labels alone": "labels alone",
    "unlabelled": "`--unlabelled`",
    "teacher": "`--teacher`, a larger model of the same labels",
    "both": "`--teacher` and `--unlabelled`",
    "pretrain": "`pretrain` on all photos, then labels",
    "again": "trained twice: from its own result, at a tenth of the rate",
    "average": "`average` of three of those",
}


@dataclass(frozen=True)
class Part:
    """Which photos have which part in a run.

    Attributes:
        name: such as ``camvid-0006R0``.
        folder: a data set with the splits train, val and judge, and photos without masks in `unlabelled`.
    """

    name: str
    folder: Path


@dataclass(frozen=True)
class Settings:
    """How long everything takes."""

    steps: int
    pretraining: int
    batch: int
    crop: int
    student: str
    teacher: str

    def options(self, seed: int, **more: Any) -> dict[str, Any]:
        """Return what `terrazzo.train` overrides for a run."""
        fixed = {"steps": self.steps, "batch_size": self.batch, "crop": [self.crop, self.crop], "seed": seed}
        return {**fixed, "run.patience": None, "run.validate_every": 5, "lr": 1e-3, **more}


def lay_out(
    root: Path, name: str, dataset: Dataset, splits: dict[str, Sequence[Sample]], photos: Sequence[Sample]
) -> Part:
    """Make a folder of links that has the splits of a part."""
    folder = root / "data" / name
    for split, samples in splits.items():
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for sample in samples:
            link(sample.image.file, folder / split / "images")
            link(sample.mask.file, folder / split / "masks", sample.image.file.stem)
    (folder / "unlabelled").mkdir(exist_ok=True)
    for sample in photos:
        link(sample.image.file, folder / "unlabelled")
    (folder / "labels.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(dataset.labels.to_dict()))))
    return Part(name, folder)


def link(file: Path, folder: Path, stem: str | None = None) -> None:
    """Put a link to a file into a folder."""
    target = folder / f"{stem or file.stem}{file.suffix}"
    if not target.is_symlink():
        target.symlink_to(os.path.abspath(file))


def with_few(samples: Sequence[Sample], every: int) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Return the photos to learn from, those that choose the epoch, and those whose masks nobody has drawn."""
    labelled = list(samples[::every])
    chosen = labelled[::5]
    return [one for one in labelled if one not in chosen], chosen, [one for one in samples if one not in labelled]


def camvid_parts(root: Path, data: Path) -> list[Part]:
    """Return a part for each drive that is left out."""
    dataset = terrazzo.open_dataset(data, "train", terrazzo.LabelSpec.bundled("camvid"))
    by_drive = {drive: [one for one in dataset.samples if one.name.startswith(drive)] for drive in DRIVES}
    parts = []
    for judged in DRIVES:
        rest = [sample for drive in DRIVES if drive != judged for sample in by_drive[drive]]
        learnt, chosen, photos = with_few(rest, 8)
        splits = {"train": learnt, "val": chosen, "judge": by_drive[judged]}
        parts.append(lay_out(root, f"camvid-{judged}", dataset, splits, photos))
    return parts


def nuclei_parts(root: Path, data: Path) -> list[Part]:
    """Return the part with a tenth of the labels."""
    dataset, judge = terrazzo.open_dataset(data, "train"), terrazzo.open_dataset(data, "val")
    learnt, chosen, photos = with_few(dataset.samples, 10)
    splits = {"train": learnt, "val": chosen, "judge": judge.samples}
    return [lay_out(root, "nuclei", dataset, splits, photos)]


class Work:
    """All runs of a table, each done once.

    Args:
        root: the folder of runs and results.
        settings: how long they are.
    """

    def __init__(self, root: Path, settings: Settings) -> None:
        self.root, self.settings = root, settings

    def once(self, name: str, run: Callable[[Path, bool], object]) -> Path:
        """Return the folder of a run, which is begun or resumed if it is not there as a whole."""
        folder, mark = self.root / "runs" / name, self.root / "done" / name
        if not mark.exists():
            run(folder, (folder / "checkpoints").is_dir())
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        return folder

    def trained(self, name: str, part: Part, seed: int, model: str | None = None, **more: Any) -> Path:
        """Train by the settings; see `once`."""
        weights, teacher, unlabelled = (more.pop(key, None) for key in ("weights", "teacher", "unlabelled"))
        options = self.settings.options(seed, **more)

        def run(folder: Path, resume: bool) -> object:
            return terrazzo.train(
                part.folder, folder, None if resume else model or self.settings.student,
                overrides={} if resume else options, weights=None if resume else weights,
                teacher=None if resume else teacher, unlabelled=unlabelled, resume=resume,
            )  # fmt: skip

        return self.once(f"{part.name}-{name}-{seed}", run)

    def model(self, method: str, part: Part, seed: int) -> Path:
        """Return the folder of the model that a method makes."""
        photos = part.folder / "unlabelled"
        if method == "labels alone":
            return self.trained("alone", part, seed)
        if method == "unlabelled":
            return self.trained("unlabelled", part, seed, unlabelled=photos)
        if method in ("teacher", "both"):
            teacher = self.trained("large", part, seed, self.settings.teacher)
            more = {"unlabelled": photos} if method == "both" else {}
            return self.trained(method, part, seed, teacher=teacher, **more)
        if method == "pretrain":
            return self.trained("pretrained", part, seed, weights=self.encoder(part, seed))
        start = self.trained("alone", part, seed)
        again = [
            self.trained(f"again{k}", part, seed + 100 * k, weights=start, lr=1e-4)
            for k in ((1,) if method == "again" else (1, 2, 3))
        ]
        if method == "again":
            return again[0]
        name = f"{part.name}-average-{seed}"
        return self.once(name, lambda folder, _: terrazzo.average(again, folder, part.folder, overwrite=True))

    def encoder(self, part: Part, seed: int) -> Path:
        """Return the folder of an encoder that was pretrained on all photos that may be learnt from."""
        pool = self.root / "data" / f"{part.name}-all"
        pool.mkdir(exist_ok=True)
        for folder in ("unlabelled", "train/images"):
            for file in (part.folder / folder).iterdir():
                link(file, pool)
        epochs = max(self.settings.pretraining * self.settings.batch // len(list(pool.iterdir())), 1)
        crop = [self.settings.crop // 32 * 32] * 2
        options = {"epochs": epochs, "batch_size": self.settings.batch, "crop": crop, "seed": seed}

        def run(folder: Path, resume: bool) -> object:
            model = None if resume else self.settings.student
            return terrazzo.pretrain(pool, folder, model, overrides={} if resume else options, resume=resume)

        return self.once(f"{part.name}-encoder-{seed}", run)

    def score(self, method: str, part: Part, seed: int) -> float:
        """Return the mIoU on what is judged."""
        path = self.root / "results" / f"{part.name}-{method.replace(' ', '-')}-{seed}.json"
        if not path.exists():
            model = self.model(method, part, seed)
            report = terrazzo.evaluate(model, part.folder, split="judge")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"mIoU": report.metrics.mIoU}))
        found: float = json.loads(path.read_text())["mIoU"]
        print(f"{part.name}, seed {seed}, {method}: mIoU {found:.2f}", flush=True)
        return found


def summary(values: Sequence[float]) -> str:
    """Write mean and standard deviation."""
    return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


def main() -> None:
    """Do what is left of the runs, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", type=Path)
    parser.add_argument("--nuclei", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--pretraining", type=int, default=4000, help="steps of pretraining")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--student", default="segformer_b0")
    parser.add_argument("--teacher", default="segformer_b1")
    parser.add_argument("--short", action="store_true", help="two steps of everything, to see that it runs")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/few_labels.md")
    options = parser.parse_args()
    methods = options.methods.split(",")
    settings = Settings(
        options.steps, options.pretraining, options.batch, options.crop, options.student, options.teacher
    )
    seeds = range(options.seeds)
    if options.short:
        settings, seeds = Settings(2, 2, 2, 64, options.student, options.student), range(1)
    work, groups = Work(options.output, settings), {}
    if options.camvid:
        groups["CamVid, a drive left out"] = camvid_parts(options.output, options.camvid)
    if options.nuclei:
        groups["nuclei, a tenth of the labels"] = nuclei_parts(options.output, options.nuclei)
    # Seed by seed and part by part, so that a table can be made of what is done when time is up.
    scores: dict[tuple[str, str], list[float]] = {(method, group): [] for method in methods for group in groups}
    for seed in seeds:
        for group, parts in groups.items():
            for part in parts:
                for method in methods:
                    scores[method, group].append(work.score(method, part, seed))
    columns, rows = ["way"], []
    for group in groups:
        columns += [f"{group}: mIoU", "difference"]
    for method in methods:
        row = [METHODS[method]]
        for group in groups:
            mine, alone = scores[method, group], scores.get(("labels alone", group), [])
            row += [summary(mine), summary([a - b for a, b in zip(mine, alone, strict=True)]) if alone else ""]
        rows.append(row)
    command = f"python benchmarks/few_labels.py --seeds {len(seeds)} --steps {settings.steps} --write"
    about = (
        f"{settings.student}, {settings.steps} steps of {settings.batch} windows of {settings.crop}; teacher "
        f"{settings.teacher}; mean and standard deviation over {len(seeds)} seed(s) and the parts.\n"
    )
    publish("few_labels", header("Few labels", command, timing=about) + table(columns, rows), options.write)


if __name__ == "__main__":
    main()

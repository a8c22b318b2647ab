"""Put a run's best model into the package as half-precision weights, with its record and its score as shipped.

    python scripts/bundle_model.py RUN NAME --data CAMVID --licence TEXT --note TEXT

The score in the record is that of the stored weights, rounded to half precision, by `terrazzo evaluate`.
"""

from __future__ import annotations

import argparse
import dataclasses

import torch

import terrazzo
from terrazzo.engines.memory import keep_freed_memory
from terrazzo.weights.catalog import BUNDLED_FOLDER
from terrazzo.weights.files import save_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="output folder of `terrazzo train`")
    parser.add_argument("name", help="architecture.tag, such as segformer_b0.camvid")
    parser.add_argument("--data", required=True, help="data set to measure on, its val split")
    parser.add_argument("--licence", required=True)
    parser.add_argument("--note", required=True)
    parser.add_argument("--unseen", help="what leaving groups of photos out of training showed")
    options = parser.parse_args()

    keep_freed_memory()
    model = terrazzo.load(options.run)
    about = {"licence": options.licence, "note": options.note}
    if options.unseen:
        about["unseen"] = options.unseen
    folder = BUNDLED_FOLDER / options.name
    save_folder(folder, dataclasses.replace(model, record={**model.record, **about}), torch.float16)
    report = terrazzo.evaluate(terrazzo.load(folder), options.data)
    assert report.boundary is not None
    scores = {"val_mIoU": round(report.metrics.mIoU, 2), "val_boundary_mIoU": round(report.boundary.mIoU, 2)}
    save_folder(folder, dataclasses.replace(model, record={**scores, **model.record, **about, **scores}), torch.float16)
    print(report.table())


if __name__ == "__main__":
    main()

"""Prediction over a Ray cluster: photos of folders, Parquet tables or WebDataset shards, block by block.

    blocks.py   what is segmented: photos in blocks, each of which a worker reads by itself
    worker.py   a worker: loads the model once, segments blocks, and writes a part of the report for each
    driver.py   `predict`: gives blocks to workers, and those of a worker that died to another

Ray and pyarrow are the extra ``dist``. On one machine `terrazzo.predict_folder` does the same without them.
"""

from terrazzo.distributed.driver import Done, predict

__all__ = ["Done", "predict"]

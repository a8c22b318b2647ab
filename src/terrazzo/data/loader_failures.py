"""Why loader workers fail: shared memory or file descriptors that have run out, and workers that have died."""

from __future__ import annotations

import errno
from typing import Any

from terrazzo.errors import TrainingError

__all__ = ["not_handed_over", "ran_out_of_files", "refuse_if_dead"]


def not_handed_over(error: Exception, size: int | None = None) -> TrainingError:
    """Say why a batch cannot pass from a worker to the training process, and what helps."""
    batch = "a batch" if size is None else f"a batch of {max(size / 1e6, 0.1):.1f} MB"
    if ran_out_of_files(error):
        return TrainingError(
            f"a loader worker could not hand over {batch}: too many files are open",
            fix="raise the limit with `ulimit -n 4096`, or load in the training process with --workers 0",
            code="training-open-files",
        )
    return TrainingError(
        f"a loader worker could not hand over {batch}: shared memory (/dev/shm) is full",
        fix="give the container more, as in `docker run --shm-size=2g`, or load in the training process with "
        "--workers 0",
        code="training-shared-memory",
    )


def ran_out_of_files(error: Exception) -> bool:
    """Whether a descriptor could not be opened or received; PyTorch and multiprocessing say so in three ways."""
    out = getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE)
    return out or "ancdata" in str(error) or "Too many open files" in str(error)


def refuse_if_dead(batches: Any, error: Exception) -> None:
    """Raise one error where a worker has died, whatever that broke."""
    workers = getattr(batches, "_workers", ())
    if "timed out" not in str(error):
        for worker in workers:
            worker.join(0.5)  # its pipe breaks a moment before the system tells that it has ended
    dead = [worker for worker in workers if not worker.is_alive()]
    if dead:
        ends = ", ".join(f"process {worker.pid} with exit code {worker.exitcode}" for worker in dead)
        raise TrainingError(
            f"a loader worker has died ({ends}), as happens when memory or /dev/shm runs out",
            fix="use fewer workers, or 0 to load in the training process",
            code="training-worker-died",
        ) from error

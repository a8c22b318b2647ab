"""Errors keep their code and fix wherever they go."""

from __future__ import annotations

import pickle

import pytest

from terrazzo import errors
from terrazzo.errors import CheckpointError, MissingExtraError, TerrazzoError

KINDS = [getattr(errors, name) for name in errors.__all__]


def test_codes_are_distinct_and_every_error_is_one_of_ours() -> None:
    assert len({kind.code for kind in KINDS}) == len(KINDS)
    assert all(issubclass(kind, TerrazzoError) for kind in KINDS)
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in KINDS)


@pytest.mark.parametrize(
    "error",
    [
        CheckpointError("bad", fix="get another"),
        CheckpointError("bad", fix="get another", code="checkpoint-keys"),
        MissingExtraError("onnx", "export"),
    ],
)
def test_pickling_keeps_everything(error: TerrazzoError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.message, copy.fix, copy.code) == (error.message, error.fix, error.code)
    assert str(copy) == f"{error.message} ({error.fix})"

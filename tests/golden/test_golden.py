"""A fixed seed gives the stored logits and the stored loss curve, so a change that should alter nothing alters nothing.

golden_cases.py says how to store new numbers.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from golden_cases import CURVE_FILE, MODELS, STEPS, logits_case, logits_file, loss_curve_case

SIZES = {"segformer_b0": (12, 16), "setr_naive_tiny": (3, 4), "setr_pup_tiny": (24, 32), "setr_mla_tiny": (12, 16)}


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def computed(name: str) -> dict[str, np.ndarray]:
    return logits_case(name)


@pytest.fixture(scope="module")
def stored(name: str) -> dict[str, np.ndarray]:
    with np.load(logits_file(name), allow_pickle=False) as arrays:
        return dict(arrays)


def test_initial_weights(computed: dict[str, np.ndarray], stored: dict[str, np.ndarray]) -> None:
    """Fails where the order or kind of initialisation changed; then the two tests below fail with it."""
    np.testing.assert_allclose(computed["initial_norms"], stored["initial_norms"], rtol=1e-4)


def test_feature_maps(computed: dict[str, np.ndarray], stored: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(computed["features"], stored["features"], atol=1e-4)


def test_logits(name: str, computed: dict[str, np.ndarray], stored: dict[str, np.ndarray]) -> None:
    assert stored["logits"].shape == (1, 5, *SIZES[name])
    assert stored["logits"].std() > 0.1
    np.testing.assert_allclose(computed["logits"], stored["logits"], atol=1e-4)


def test_loss_curve_of_ten_steps() -> None:
    stored = json.loads(CURVE_FILE.read_text())
    assert len(stored) == STEPS
    assert stored[-1] < 0.8 * stored[0]
    assert loss_curve_case() == pytest.approx(stored, rel=2e-3)

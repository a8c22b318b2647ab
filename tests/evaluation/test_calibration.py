"""ECE and NLL of pixels that can be counted by hand; the temperature that a closed form gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from terrazzo.errors import DatasetError
from terrazzo.evaluation.calibrate import fit_temperature
from terrazzo.evaluation.calibration import BINS, Calibration, grid_step


def planes(*pixels: list[float]) -> np.ndarray:
    """(K, 1, P) probabilities of so many pixels."""
    return np.array(pixels, np.float32).T[:, None]


def test_ece_and_nll_by_hand() -> None:
    found = Calibration(2, 255)
    # 0.9 sure of class 0: right, right, wrong. 0.6 sure of class 1: right. The last pixel does not count.
    found.update(
        planes([0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.9, 0.1]), np.array([[0, 0, 1, 1, 255]], np.uint8)
    )
    metrics = found.metrics()
    assert metrics.ece == pytest.approx(100 * (3 / 4 * (0.9 - 2 / 3) + 1 / 4 * (1 - 0.6)), abs=1e-4)
    assert metrics.class_ece_K == pytest.approx([100 * (0.9 - 2 / 3), 40], abs=1e-4)
    assert metrics.nll == pytest.approx(-(2 * math.log(0.9) + math.log(0.1) + math.log(0.6)) / 4, abs=1e-6)
    assert metrics.accuracy == 75 and metrics.confidence == pytest.approx(100 * 3.3 / 4, abs=1e-4)
    assert metrics.share_B[13] == 75 and metrics.share_B[9] == 25  # 0.9 * 15 = 13.5, 0.6 * 15 = 9
    assert metrics.accuracy_B[13] == pytest.approx(200 / 3) and np.isnan(metrics.accuracy_B[0])


def test_certainty_falls_into_the_last_bin_and_impossible_labels_are_finite() -> None:
    found = Calibration(2, 255)
    found.update(planes([1.0, 0.0], [1.0, 0.0]), np.array([[0, 1]], np.uint8))
    metrics = found.metrics()
    assert metrics.share_B[BINS - 1] == 100 and metrics.ece == 50
    assert math.isfinite(metrics.nll) and metrics.nll > 40


def test_images_add_up_by_the_pixels_that_they_stand_for() -> None:
    together, apart = Calibration(2, 255), Calibration(2, 255)
    first, second = planes([0.8, 0.2]), planes([0.3, 0.7])
    apart.update(first, np.array([[0]], np.uint8), weight=4)
    apart.update(second, np.array([[0]], np.uint8))
    for _ in range(4):
        together.update(first, np.array([[0]], np.uint8))
    together.update(second, np.array([[0]], np.uint8))
    assert apart.metrics().ece == pytest.approx(together.metrics().ece)
    assert apart.metrics().nll == pytest.approx(together.metrics().nll)


def test_nothing_labelled_has_no_numbers_and_json_says_null() -> None:
    found = Calibration(2, 255)
    found.update(planes([0.9, 0.1]), np.array([[255]], np.uint8))
    document = found.metrics().to_dict()
    assert document["ece"] is None and document["nll"] is None and document["bins"][0]["accuracy"] is None


@pytest.mark.parametrize(("size", "step"), [((100, 100), 1), ((360, 480), 3), ((1080, 1920), 11)])
def test_the_grid_has_about_as_many_pixels_for_every_size(size: tuple[int, int], step: int) -> None:
    assert grid_step(size) == step


def test_the_temperature_of_two_classes_by_hand() -> None:
    # Logits 2 and 0, right in 3 of 4: the likelihood is highest where sigmoid(2 / T) = 3 / 4, so T = 2 / log 3.
    log_KP = np.array([[2.0] * 4, [0.0] * 4], np.float32)
    label_P = np.array([0, 0, 0, 1])
    assert fit_temperature([(log_KP, label_P, 1)]) == pytest.approx(2 / math.log(3), rel=1e-5)
    # A constant that all classes share says nothing, and images count by what their pixels stand for.
    two = [(log_KP[:, :3] + 5, label_P[:3], 2), (log_KP[:, 3:], label_P[3:], 2)]
    assert fit_temperature(two) == pytest.approx(2 / math.log(3), rel=1e-5)


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []], ids=["all right", "all wrong", "nothing labelled"])
def test_labels_that_no_temperature_fits_are_refused(labels: list[int]) -> None:
    log_KP = np.array([[2.0] * len(labels), [0.0] * len(labels)], np.float32)
    with pytest.raises(DatasetError, match="no temperature") as caught:
        fit_temperature([(log_KP, np.array(labels, np.intp), 1)])
    assert caught.value.code == "calibration"

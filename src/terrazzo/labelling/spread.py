"""Greedy choice of points that are far apart: the core-set method, with a weight for each point.

Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018
(arXiv 1708.00489), choose again and again the point that is farthest from all chosen ones. Here its distance is
multiplied by its weight, so that of two equally new photos the one comes first of which the network is less sure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["spread_out", "standardised"]

SAME = 1e-4
"""Points so close to each other are copies: standardised features of different photos are about 1 apart."""

LEAST = 1e-3
"""Added to the weights: among photos of which the network is sure, distance still decides."""


def spread_out(
    weights_N: NDArray[np.floating], features_NC: NDArray[np.floating], count: int, known_MC: NDArray[np.floating]
) -> list[tuple[int, float]]:
    """Choose points one after the other, each by weight times distance from those before and from known ones.

    Args:
        weights_N: 0 or more.
        features_NC: where the points are.
        count: how many to choose.
        known_MC: points that need not be chosen again; there may be none.

    Returns:
        Places of the chosen points, and how far each was from all before it: infinite for the first of all. Fewer than
        `count` where the others are copies of chosen or known ones.
    """
    nearest_N = np.full(len(features_NC), np.inf)
    for known_C in known_MC:
        nearest_N = np.minimum(nearest_N, _distances(features_NC, known_C))
    chosen: list[tuple[int, float]] = []
    while len(chosen) < min(count, len(features_NC)):
        reach_N = np.where(np.isinf(nearest_N), 1.0, nearest_N)  # all are infinite, or none is
        worth_N = np.where(nearest_N > SAME, (weights_N + LEAST) * reach_N, -1.0)
        best = int(worth_N.argmax())
        if worth_N[best] < 0:
            break
        chosen.append((best, float(nearest_N[best])))
        nearest_N = np.minimum(nearest_N, _distances(features_NC, features_NC[best]))
        nearest_N[best] = 0.0
    return chosen


def standardised(features_NC: NDArray[np.floating]) -> NDArray[np.float64]:
    """Bring each feature to mean 0 and variance 1, and two points to a mean squared distance of about 2."""
    features_NC = np.asarray(features_NC, np.float64)
    spread_C = features_NC.std(0)
    scaled_NC = (features_NC - features_NC.mean(0)) / np.where(spread_C > 0, spread_C, 1.0)
    return np.asarray(scaled_NC / np.sqrt(features_NC.shape[1]), np.float64)


def _distances(features_NC: NDArray[np.floating], point_C: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(features_NC - point_C, axis=1), np.float64)

"""A Gaussian process over rows of zeros and ones, and what is asked of it: how much better a row may be than the best,
and how likely it keeps a limit.

Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, chapter 2.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def _kernel(left: Array, right: Array, linear: float, local: float) -> Array:
    differences = left.sum(axis=1)[:, None] + right.sum(axis=1)[None, :] - 2 * left @ right.T
    return np.asarray(linear * (left @ right.T) + local * np.exp(-differences / 3.0))


class GaussianProcess:
    """Of values over rows; the kernel's weights are those under which the values are likeliest."""

    def __init__(self, rows: Array, values: Array) -> None:
        """rows: (n, columns), values: (n)."""
        self._rows = rows
        self._middle, self._scale = float(np.mean(values)), float(np.std(values)) or 1.0
        targets = (np.asarray(values) - self._middle) / self._scale
        likeliest = -math.inf
        for linear, local, noise in itertools.product((0.05, 0.2, 0.8), (0.05, 0.3, 1.0), (0.003, 0.03, 0.1)):
            covariance = _kernel(rows, rows, linear, local) + noise * np.eye(len(rows))
            factor = np.linalg.cholesky(covariance)
            weights = np.linalg.solve(factor.T, np.linalg.solve(factor, targets))
            likelihood = -0.5 * float(targets @ weights) - float(np.log(np.diag(factor)).sum())
            if likelihood > likeliest:
                likeliest = likelihood
                self._linear, self._local, self._factor, self._weights = linear, local, factor, weights

    def __call__(self, wanted: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of so many rows."""
        across = _kernel(wanted, self._rows, self._linear, self._local)
        explained = np.linalg.solve(self._factor, across.T)
        alone = self._linear * wanted.sum(axis=1) + self._local
        sd = np.sqrt(np.maximum(alone - (explained**2).sum(axis=0), 1e-6))
        return np.asarray(across @ self._weights * self._scale + self._middle), np.asarray(sd * self._scale)


class Limit:
    """How likely it is that a limit is kept."""

    def __init__(self, rows: Array, violations: Sequence[float]) -> None:
        """violations: of what is known, how far it is broken; at most 0 where it is kept."""
        # Most is to be learnt near the limit.
        scaled = np.arcsinh(np.array(violations) / 0.2)
        self._process = GaussianProcess(rows, scaled) if np.ptp(scaled) > 0 else None

    def kept(self, wanted: Array) -> Array:
        """A probability for each row; 1 where nothing is known to come nearer to the limit than anything else."""
        if self._process is None:
            return np.ones(len(wanted))
        mean, sd = self._process(wanted)
        return _normal_cdf(-mean / sd)


def _normal_cdf(z: Array) -> Array:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in z])


def expected_improvement(mean: Array, sd: Array, best: float) -> Array:
    """By how much each is expected to fall below the best so far."""
    z = (best - mean) / sd
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return np.asarray(sd * (z * _normal_cdf(z) + density))

"""Proposes the configuration that promises most, from all that was measured: Bayesian optimisation over techniques.

Techniques act nearly independently on the logarithm of a latency (one halves it, another takes off a tenth), with
exceptions where one leaves another nothing to gain. So each quantity is a Gaussian process over configurations whose
kernel has a linear part, one weight per technique and per value, and a part that falls with the number of differences.
What is proposed is a change of one or two techniques of the best so far: the one with the greatest expected improvement
that keeps the limits and works, for what measuring it costs in seconds.

Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, chapter 2; constrained expected improvement:
Gardner et al., ICML 2014; random weights for several objectives: Knowles, "ParEGO", 2006.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...search_space import LOSSES, Configuration, Loss, SearchSpace, Value

Array = np.ndarray
Chosen = dict[str, dict[str, Value]]
"""{technique: {parameter: value}}."""
STARTS = 6
"""Changes are tried of so many of the best."""
RANDOM_CANDIDATES = 60
MOST_CANDIDATES = 500
LEAST_KNOWN = 4
"""Complete trials below which nothing is predicted."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """One measured configuration."""

    configuration: Configuration
    works: bool
    objectives: tuple[float, ...] = ()
    """What is minimised, latency first; empty unless it works."""
    violation: float = 0.0
    """How far the worst limit is broken; at most 0 when all are kept."""
    seconds: float = 1.0
    """What measuring it took."""


class Surrogate:
    """Learns from what is known, anew for each proposal: a hundred trials take milliseconds."""

    def __init__(self, space: SearchSpace, allowed: Callable[[Configuration], bool], seed: int) -> None:
        """allowed: whether a configuration may be proposed: it can work, and nobody has measured it."""
        self._space = space
        self._allowed = allowed
        self._random = np.random.default_rng(seed)
        self._columns: dict[tuple[str, ...], int] = {}
        for name, choices in space.techniques.items():
            self._columns[name,] = len(self._columns)
            for parameter, values in choices.items():
                for value in values if len(values) > 1 else ():
                    self._columns[name, parameter, str(value)] = len(self._columns)
        self._asked = 0

    def propose(self, known: Sequence[Known]) -> Configuration | None:
        """The next configuration; None when too little is known, or nothing is left near what is good."""
        working = [one for one in known if one.works]
        if len(working) < LEAST_KNOWN:
            return None
        self._asked += 1
        # In turns: the least latency, the same without loss, and a compromise between the objectives.
        turn = self._asked % 3
        lossless = turn == 1
        values = _scalarised(working, self._random) if turn == 2 else _logarithms(working)[:, 0]
        candidates = self._candidates(working, values, lossless)
        if not candidates and lossless:
            candidates, lossless = self._candidates(working, values, False), False
        if not candidates:
            return None
        inside, rows = self._encode([one.configuration for one in working]), self._encode(candidates)
        mean, sd = _predict(inside, values, rows)
        kept = [v for one, v in zip(working, values, strict=True) if one.violation <= 0 and _may(one, lossless)]
        improvement = _expected_improvement(mean, sd, min(kept, default=float(np.max(values))))
        broken = np.arcsinh(np.array([one.violation for one in working]) / 0.2)
        if np.ptp(broken) > 0:
            mean, sd = _predict(inside, broken, rows)
            improvement = improvement * _normal_cdf(-mean / sd)
        works = np.array([1.0 if one.works else 0.0 for one in known])
        if np.ptp(works) > 0:
            mean, _ = _predict(self._encode([one.configuration for one in known]), works, rows)
            improvement = improvement * np.clip(mean, 0.02, 1.0)
        seconds = np.log([max(one.seconds, 0.1) for one in known])
        cost, _ = _predict(self._encode([one.configuration for one in known]), seconds, rows)
        return candidates[int(np.argmax(np.log(improvement + 1e-12) - 0.5 * cost))]

    def _candidates(self, working: Sequence[Known], values: Array, lossless: bool) -> list[Configuration]:
        """Changes of one technique of the best, of two at random, and anything at random; each once."""
        order = [working[i] for i in np.argsort(values)]
        good = [one for one in order if one.violation <= 0 and _may(one, lossless)] or order
        starts = [{step.technique: step.values() for step in one.configuration.steps} for one in good[:STARTS]]
        found = [changed for start in starts for changed in self._changes(start)]
        for start in starts:
            changes = self._changes(start)
            for index in self._random.integers(len(changes), size=RANDOM_CANDIDATES // 2):
                again = self._changes(changes[index])
                found.append(again[int(self._random.integers(len(again)))])
        found += [self._anything() for _ in range(RANDOM_CANDIDATES)]
        if len(found) > MOST_CANDIDATES:
            found = [found[i] for i in self._random.choice(len(found), MOST_CANDIDATES, replace=False)]
        made = dict.fromkeys(Configuration.of(one) for one in found)
        return [one for one in made if (not lossless or _exact(one)) and self._allowed(one)]

    def _changes(self, chosen: Chosen) -> list[Chosen]:
        """What differs from it in one technique of the space, or in one parameter of one."""
        changed: list[Chosen] = []
        for name, choices in self._space.techniques.items():
            if name not in chosen:
                combinations = itertools.product(*choices.values())
                changed += [{**chosen, name: dict(zip(choices, values, strict=True))} for values in combinations]
                continue
            changed.append({other: values for other, values in chosen.items() if other != name})
            for parameter, values in choices.items():
                others = [value for value in values if value != chosen[name][parameter]]
                changed += [{**chosen, name: {**chosen[name], parameter: value}} for value in others]
        return changed

    def _anything(self) -> Chosen:
        names = list(self._space.techniques)
        count = int(self._random.integers(1, min(6, len(names)) + 1))
        chosen: Chosen = {}
        for name in self._random.choice(names, count, replace=False):
            choices = self._space.techniques[name]
            chosen[str(name)] = {p: values[int(self._random.integers(len(values)))] for p, values in choices.items()}
        return chosen

    def _encode(self, configurations: Sequence[Configuration]) -> Array:
        rows = np.zeros((len(configurations), len(self._columns)))
        for row, configuration in zip(rows, configurations, strict=True):
            for step in configuration.steps:
                # What lies outside the space teaches what its techniques in the space have in common with it.
                for column in [(step.technique,), *((step.technique, p, str(v)) for p, v in step.values().items())]:
                    if column in self._columns:
                        row[self._columns[column]] = 1.0
        return rows


def _exact(configuration: Configuration) -> bool:
    return LOSSES.index(configuration.loss) <= LOSSES.index(Loss.REORDERED)


def _may(one: Known, lossless: bool) -> bool:
    return not lossless or _exact(one.configuration)


def _logarithms(working: Sequence[Known]) -> Array:
    """(n, objectives): what is above zero as a logarithm, the rest as it is."""
    values = np.array([one.objectives for one in working], dtype=float)
    for column in values.T:
        if (column > 0).all():
            column[:] = np.log(column)
    return values


def _scalarised(working: Sequence[Known], random: np.random.Generator) -> Array:
    """(n): the objectives, each from 0 to 1, weighted at random."""
    values = _logarithms(working)
    spread = np.where(np.ptp(values, axis=0) > 0, np.ptp(values, axis=0), 1.0)
    scaled = (values - values.min(axis=0)) / spread
    weighted = scaled * random.dirichlet(np.ones(values.shape[1]))
    return np.asarray(weighted.max(axis=1) + 0.05 * weighted.sum(axis=1))


def _kernel(left: Array, right: Array, linear: float, local: float) -> Array:
    differences = left.sum(axis=1)[:, None] + right.sum(axis=1)[None, :] - 2 * left @ right.T
    return np.asarray(linear * (left @ right.T) + local * np.exp(-differences / 3.0))


def _predict(rows: Array, values: Array, wanted: Array) -> tuple[Array, Array]:
    """Mean and standard deviation at `wanted`; the kernel's weights are those under which the values are likeliest."""
    middle, scale = float(np.mean(values)), float(np.std(values)) or 1.0
    targets = (np.asarray(values) - middle) / scale
    best: tuple[float, float, float, Array, Array] | None = None
    for linear, local, noise in itertools.product((0.05, 0.2, 0.8), (0.05, 0.3, 1.0), (0.003, 0.03)):
        covariance = _kernel(rows, rows, linear, local) + noise * np.eye(len(rows))
        factor = np.linalg.cholesky(covariance)
        weights = np.linalg.solve(factor.T, np.linalg.solve(factor, targets))
        likelihood = -0.5 * float(targets @ weights) - float(np.log(np.diag(factor)).sum())
        if best is None or likelihood > best[0]:
            best = likelihood, linear, local, factor, weights
    assert best is not None
    _, linear, local, factor, weights = best
    across = _kernel(wanted, rows, linear, local)
    mean = across @ weights
    explained = np.linalg.solve(factor, across.T)
    alone = linear * wanted.sum(axis=1) + local
    sd = np.sqrt(np.maximum(alone - (explained**2).sum(axis=0), 1e-6))
    return mean * scale + middle, sd * scale


def _normal_cdf(z: Array) -> Array:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in z])


def _expected_improvement(mean: Array, sd: Array, best: float) -> Array:
    z = (best - mean) / sd
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return np.asarray(sd * (z * _normal_cdf(z) + density))

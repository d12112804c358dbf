"""Proposes the configuration that promises most, from all that was measured: Bayesian optimisation over techniques.

Techniques act nearly independently on the logarithm of a latency (one halves it, another takes off a tenth), with
exceptions where one leaves another nothing to gain. So each quantity is a Gaussian process over configurations whose
kernel has a linear part, one weight per technique and per value, and a part that falls with the number of differences.
What is proposed is reached by a few changes of single techniques from the best so far: the one with the greatest
expected improvement that keeps the limits and works, for what measuring it costs in seconds. Pictures are foretold from
the techniques that may lose something alone: a compiler, a layout or another kernel leaves them as they are.

Constrained expected improvement: Gardner et al., ICML 2014; random weights for several objectives: Knowles, "ParEGO",
2006.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from ...search_space import (
    LOSSES,
    MAKES_NOTHING_FASTER,
    Configuration,
    Loss,
    SearchSpace,
    Value,
    patience,
    technique,
)
from .gaussian_process import Array, GaussianProcess, Limit, expected_improvement

Chosen = dict[str, dict[str, Value]]
"""{technique: {parameter: value}}."""
STARTS = 6
"""Changes are tried of so many of the best."""
EXACT_STARTS = 3
"""And of so many of the best that lose nothing but rounding."""
NEAR = 0.5
"""Of the logarithm of a latency: nothing starts from what is further behind the best."""
CLIMBS = 4
"""So many changes lead from what is known to what is proposed, at most."""
RANDOM_CANDIDATES = 40
COST_EXPONENT = 0.1
"""Of the seconds by which an expected improvement is divided."""
SLOWER = 0.2
"""Of the logarithm of a latency."""
LEAST_KNOWN = 4
"""Complete trials below which nothing is proposed, or believed of what runs."""
LEAST_KNOWN_OF_RECIPES = 2
"""The same for which of them comes first: what a quick one has shown of its techniques is enough to start with."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """One measured configuration."""

    configuration: Configuration
    works: bool
    objectives: tuple[float, ...] = ()
    """What is minimised, latency first; empty unless it works."""
    picture_violation: float = 0.0
    """How far the limit on pictures is broken; at most 0 when it is kept, or when there is none."""
    violation: float = 0.0
    """The same of the worst of the other limits, which any technique may break or keep."""
    seconds: float = 1.0
    """What measuring it took."""

    @property
    def keeps_limits(self) -> bool:
        """Whether it breaks none."""
        return self.picture_violation <= 0 and self.violation <= 0


@dataclass(frozen=True)
class _Alone:
    """What is known of one technique with its values without measuring."""

    exact: bool
    """Whether it loses nothing but rounding."""
    log_patience: float
    """The logarithm of how many times as long as an ordinary trial it takes."""
    parts: frozenset[tuple[str, ...]]
    """(technique) and (technique, parameter, value) of each."""
    columns: tuple[int, ...]
    """Of the model's, those that are 1 with it."""


class Surrogate:
    """Learns from what is known, anew for each proposal: a hundred trials take milliseconds."""

    def __init__(self, space: SearchSpace, allowed: Callable[[Configuration], bool], seed: int) -> None:
        """allowed: whether a configuration may be proposed: it can work, and nobody has measured it."""
        self._space = space
        self._allowed = allowed
        self._random = np.random.default_rng(seed)
        self._columns: dict[tuple[str, ...], int] = {}
        self._steps: dict[tuple[str, str], list[float]] = {}
        for name, choices in space.techniques.items():
            self._columns[name,] = len(self._columns)
            for parameter, values in choices.items():
                numbers = sorted(float(value) for value in values if _is_number(value))
                columns: Sequence[Value] = values
                if len(numbers) == len(values):
                    columns = self._steps[name, parameter] = numbers[1:]
                for value in columns if len(columns) > 1 or numbers else ():
                    self._columns[name, parameter, str(value)] = len(self._columns)
        self._known_alone: dict[tuple[str, tuple[Value, ...]], _Alone] = {}
        exact = {name for name, choices in space.techniques.items() if self._never_loses(name, choices)}
        self._shows = np.array([float(name not in exact) for name, *_ in self._columns])
        self._asked = 0

    def propose(self, known: Sequence[Known], running: Sequence[Configuration] = ()) -> Configuration | None:
        """The next configuration; None when too little is known, or nothing is left near what is good.

        running: configurations that are being measured; of these, what is predicted counts as if it had been measured.
        """
        known = self._with_running(known, running)
        working = [one for one in known if one.works]
        if len(working) < LEAST_KNOWN:
            return None
        self._asked += 1
        # Every fourth is a compromise between the objectives.
        fast = self._asked % 4 != 3
        values = _latencies(working) if fast else _scalarised(working, self._random)
        proposed = self._best_of(known, values, fast=fast)
        if proposed is None and fast:
            proposed = self._best_of(known, values, fast=False)
        return proposed

    def first_of(
        self, candidates: Sequence[Configuration], known: Sequence[Known], running: Sequence[Configuration] = ()
    ) -> Configuration:
        """Which of these promises most; the first one while too little is known. What makes nothing faster comes last,
        unless nothing that is known keeps the limits.
        """
        known = self._with_running(known, running)
        working = [one for one in known if one.works]
        if any(one.keeps_limits for one in working):
            candidates = [one for one in candidates if MAKES_NOTHING_FASTER.isdisjoint(_chosen(one))] or candidates
        if len(working) < LEAST_KNOWN_OF_RECIPES:
            return candidates[0]
        promise = self._promise(known, _latencies(working), fast=False)
        return candidates[int(np.argmax(promise([_chosen(one) for one in candidates])))]

    def _with_running(self, known: Sequence[Known], running: Sequence[Configuration]) -> Sequence[Known]:
        """With what is being measured as the model expects it: Ginsbourger, Le Riche and Carraro, "Kriging Is
        Well-Suited to Parallelize Optimization", 2010 (the kriging believer).
        """
        working = [one for one in known if one.works]
        if not running or len(working) < LEAST_KNOWN:
            return known
        inside = self._encode([_chosen(one.configuration) for one in working])
        rows = self._encode([_chosen(one) for one in running])
        columns = np.array([one.objectives for one in working], dtype=float).T
        believed = []
        for column in columns:
            positive = bool((column > 0).all())
            mean = GaussianProcess(inside, np.log(column) if positive else column)(rows)[0]
            believed.append(np.exp(mean) if positive else np.maximum(mean, 0.0))
        picture_violation = GaussianProcess(inside, np.array([one.picture_violation for one in working]))(rows)[0]
        violation = GaussianProcess(inside, np.array([one.violation for one in working]))(rows)[0]
        seconds = float(np.median([one.seconds for one in working]))
        return [
            *known,
            *(
                Known(
                    configuration=configuration,
                    works=True,
                    objectives=tuple(float(values[index]) for values in believed),
                    picture_violation=float(picture_violation[index]),
                    violation=float(violation[index]),
                    seconds=seconds,
                )
                for index, configuration in enumerate(running)
            ),
        ]

    def _best_of(self, known: Sequence[Known], values: Array, *, fast: bool) -> Configuration | None:
        """The allowed one that promises most, climbed to from the best that are known; None when nothing is left.

        values: of the known ones that work, what is to be small. fast: they are latencies, and what makes nothing
        faster is left out. At most one thing is tried of which nothing is known, so that it can be seen what it does.
        """
        promise = self._promise(known, values, fast=fast)
        working = [one for one in known if one.works]
        order = [(float(values[i]), working[i]) for i in np.argsort(values)]
        good = [(value, one) for value, one in order if one.keeps_limits] or order
        exact = [(value, one) for value, one in good if self._is_exact(_chosen(one.configuration))] if fast else []
        starts = [
            _chosen(one.configuration)
            for best in (good[:STARTS], exact[:EXACT_STARTS])
            for value, one in best
            if value <= best[0][0] + NEAR
        ]
        # Unless all of the best need it, to keep a limit.
        slow = (
            MAKES_NOTHING_FASTER - frozenset.intersection(*[frozenset(one) for one in starts]) if fast else frozenset()
        )
        tried = {part for one in known for part in self._parts(_chosen(one.configuration))}
        promises: dict[Configuration, float] = {}
        seen: set[frozenset[tuple[str, tuple[Value, ...]]]] = set()
        for climbed in range(CLIMBS):
            changed = [one for start in starts for one in self._changes(start)]
            if climbed == 0 and not fast:
                changed += [self._anything() for _ in range(RANDOM_CANDIDATES)]
            new = []
            for one in changed:
                key = frozenset((name, tuple(chosen.values())) for name, chosen in one.items())
                if key in seen or not slow.isdisjoint(one):
                    continue
                seen.add(key)
                if sum(not self._alone(name, chosen).parts <= tried for name, chosen in one.items()) <= 1:
                    new.append(one)
            if not new:
                break
            found = promise(new)
            starts = []
            # Whether one is allowed takes longer than to say what it promises: only the first ones are asked about.
            for index in np.argsort(-found):
                configuration = Configuration.of(new[index])
                if self._allowed(configuration):
                    promises[configuration] = float(found[index])
                    starts.append(new[index])
                if len(starts) == STARTS:
                    break
        return max(promises, key=lambda one: promises[one], default=None)

    def _promise(self, known: Sequence[Known], values: Array, *, fast: bool) -> Callable[[Sequence[Chosen]], Array]:
        """How much they promise for what they cost, as a logarithm.

        fast: two things are looked for at once, the least of the values and the least without loss: what loses nothing
        may improve on either.
        """
        everything = self._encode([_chosen(one.configuration) for one in known])
        working = [one for one in known if one.works]
        exact = [self._is_exact(_chosen(one.configuration)) for one in working]
        inside = everything[[one.works for one in known]]
        kept = [(v, same) for one, v, same in zip(working, values, exact, strict=True) if one.keeps_limits]
        best = min((v for v, _ in kept), default=float(np.max(values)))
        best_exact = min((v for v, same in kept if same), default=float(np.max(values)))
        value = GaussianProcess(inside, values)
        # Where rounding alone breaks the limit, all techniques show in pictures.
        rounding = any(same and one.picture_violation > 0 for one, same in zip(working, exact, strict=True))
        shows = np.ones(len(self._shows)) if rounding else self._shows
        shown = Limit(inside * shows, [one.picture_violation for one in working])
        others = Limit(inside, [one.violation for one in working])
        works = np.array([1.0 if one.works else 0.0 for one in known])
        succeeds = GaussianProcess(everything, works) if np.ptp(works) > 0 else None
        seconds = np.log([max(one.seconds, 0.1) for one in known])
        cost = GaussianProcess(everything, seconds - self._expected_cost([_chosen(one.configuration) for one in known]))

        def promise(candidates: Sequence[Chosen]) -> Array:
            rows = self._encode(candidates)
            mean, sd = value(rows)
            improvement = expected_improvement(mean, sd, best)
            if fast:
                lossless = np.array([self._is_exact(one) for one in candidates])
                improvement = improvement + lossless * expected_improvement(mean, sd, best_exact)
            improvement = improvement * shown.kept(rows * shows) * others.kept(rows)
            if succeeds is not None:
                improvement = improvement * np.clip(succeeds(rows)[0], 0.02, 1.0)
            log_seconds = cost(rows)[0] + self._expected_cost(candidates)
            return np.asarray(np.log(improvement + 1e-12) - COST_EXPONENT * log_seconds)

        return promise

    def _is_exact(self, chosen: Chosen) -> bool:
        """Whether it loses nothing but rounding."""
        return all(self._alone(name, values).exact for name, values in chosen.items())

    def _never_loses(self, name: str, choices: Mapping[str, Sequence[Value]]) -> bool:
        """Whether a technique loses nothing but rounding with any of its values."""
        each = itertools.product(*choices.values())
        return all(self._alone(name, dict(zip(choices, values, strict=True))).exact for values in each)

    def _expected_cost(self, candidates: Sequence[Chosen]) -> Array:
        """What is known of the logarithm of their seconds without measuring, but for a constant."""
        costs = [[self._alone(name, values).log_patience for name, values in one.items()] for one in candidates]
        return np.array([max(cost, default=0.0) for cost in costs])

    def _parts(self, chosen: Chosen) -> Iterator[tuple[str, ...]]:
        for name, values in chosen.items():
            yield from self._alone(name, values).parts

    def _alone(self, name: str, values: dict[str, Value]) -> _Alone:
        key = name, tuple(values.values())
        if key not in self._known_alone:
            configuration = Configuration.of({name: values})
            # What lies outside the space teaches what its techniques in the space have in common with it.
            columns = (self._columns[column] for column in self._columns_of(name, values) if column in self._columns)
            self._known_alone[key] = _Alone(
                exact=_exact(configuration),
                log_patience=math.log(patience(configuration)),
                parts=frozenset([(name,), *((name, parameter, str(value)) for parameter, value in values.items())]),
                columns=tuple(columns),
            )
        return self._known_alone[key]

    def _changes(self, chosen: Chosen) -> list[Chosen]:
        """What differs from it in one technique of the space, or in one parameter of one; a technique may also take the
        place of another of its axis: two caches, say, rarely go together, and without either it looks slow.
        """
        changed: list[Chosen] = []
        for name, choices in self._space.techniques.items():
            if name not in chosen:
                axis = technique(name).axis
                rivals = [other for other in chosen if technique(other).axis is axis]
                without = [chosen, *({k: v for k, v in chosen.items() if k != rival} for rival in rivals)]
                for values in itertools.product(*choices.values()):
                    changed += [{**kept, name: dict(zip(choices, values, strict=True))} for kept in without]
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

    def _encode(self, candidates: Sequence[Chosen]) -> Array:
        rows = np.zeros((len(candidates), len(self._columns)))
        for row, chosen in zip(rows, candidates, strict=True):
            row[[column for name, values in chosen.items() for column in self._alone(name, values).columns]] = 1.0
        return rows

    def _columns_of(self, name: str, values: dict[str, Value]) -> Iterator[tuple[str, ...]]:
        """Of a number, each step that it has reached: 30 then lies between 0 and 50, and does about what these do."""
        yield (name,)
        for parameter, value in values.items():
            if (name, parameter) in self._steps and _is_number(value):
                reached = (step for step in self._steps[name, parameter] if step <= float(value))
                yield from ((name, parameter, str(step)) for step in reached)
            else:
                yield (name, parameter, str(value))


def _is_number(value: Value) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _chosen(configuration: Configuration) -> Chosen:
    return {step.technique: step.values() for step in configuration.steps}


def _exact(configuration: Configuration) -> bool:
    return LOSSES.index(configuration.loss) <= LOSSES.index(Loss.REORDERED)


def _logarithms(working: Sequence[Known]) -> Array:
    """(n, objectives): what is above zero as a logarithm, the rest as it is."""
    values = np.array([one.objectives for one in working], dtype=float)
    for column in values.T:
        if (column > 0).all():
            column[:] = np.log(column)
    return values


def _latencies(working: Sequence[Known]) -> Array:
    """(n): logarithms. What is slower than the unchanged pipeline is as bad as that, however much slower it is: a few
    that take ten times as long would make everything else look alike.
    """
    values = _logarithms(working)[:, 0]
    unchanged = [value for one, value in zip(working, values, strict=True) if not one.configuration.steps]
    return np.asarray(np.minimum(values, min(unchanged, default=math.inf) + SLOWER))


def _scalarised(working: Sequence[Known], random: np.random.Generator) -> Array:
    """(n): the objectives, each from 0 to 1, weighted at random, the latency with half of the weight at least."""
    values = _logarithms(working)
    values[:, 0] = _latencies(working)
    spread = np.where(np.ptp(values, axis=0) > 0, np.ptp(values, axis=0), 1.0)
    scaled = (values - values.min(axis=0)) / spread
    weights = 0.5 * random.dirichlet(np.ones(values.shape[1]))
    weights[0] += 0.5
    weighted = scaled * weights
    return np.asarray(weighted.max(axis=1) + 0.05 * weighted.sum(axis=1))

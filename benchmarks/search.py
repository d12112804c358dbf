"""Searches tried on recorded tables: how soon does each find what the table has?

    python benchmarks/search.py benchmarks/tables/*.jsonl.gz --out docs/results/search.md
    python benchmarks/search.py --seeds 5 --policy ours --policy tpe TABLE

A table holds what was measured of many configurations (benchmarks/record_table.py). A search may propose any
configuration of the table's techniques and values. What was measured is answered as it was measured. Combinations that
are known to be impossible, and those that do the same as one that was tried, cost nothing, as in a launch. Anything
else depends on the table, and is the same for every search. In a large one (`Table.large`) the search gets, and is told
of, the row that differs least from its proposal, of those that it has not had: all answers are measured. A search of 60
trials would exhaust a small one: it is filled up by a model of itself (see `Model`), whose error at the table's own
rows, each left out, stands above the results, and so does the share of answers that came from it.

A trial costs the seconds that its row took; where a compiler's cache was warm, its first call counts as long as the
longest of the same kind. What was measured in several processes counts with their median. Each try is kept in a file
(--kept), so that what was interrupted goes on. GPSampler needs scipy.
"""

import argparse
import gzip
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process per try: threads would only wait for each other

import numpy as np
import optuna
from optuna.samplers import GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from paretune.agent.results import TORCH_COMPILE
from paretune.agent.search.surrogate import Known, Surrogate
from paretune.search_space import (
    MAKES_NOTHING_FASTER,
    Configuration,
    PipelineFacts,
    SameEffect,
    SearchSpace,
    Target,
    Trait,
    fitting_recipes,
    impossible,
    is_quick,
    technique,
)
from record_table import NEAR_LOSSLESS, configuration_of

TRIALS = 60
MARKS = (20, 40, 60)
NEAR = 1.05
LARGE = 150
"""Rows, so that a search of 60 trials sees less than half of the table."""
FRUITLESS = 3000
SHORT_S = 0.1
Array = np.ndarray


# Tables


@dataclass(frozen=True)
class Answer:
    """What measuring a configuration would have found."""

    works: bool
    latency_ms: float = math.inf
    memory_gib: float = math.inf
    drift: float | None = None
    """None where pictures were not judged."""
    seconds: float = 0.0
    measured: bool = True
    """Whether it is a row of the table."""

    @property
    def acceptable(self) -> bool:
        """Whether its pictures are near-lossless, as far as they were judged."""
        return self.works and (self.drift is None or self.drift <= NEAR_LOSSLESS)

    @property
    def objectives(self) -> tuple[float, ...]:
        """What is minimised."""
        drift = () if self.drift is None else (self.drift,)
        return (self.latency_ms, self.memory_gib, *drift)


class Table:
    """Recorded rows by configuration, the space that they lie in, and a model of what lies between them."""

    def __init__(self, file: Path) -> None:
        """Raises KeyError for a file that is no table."""
        text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()
        self.head, *lines = (json.loads(line) for line in text.splitlines())
        self.name = file.name.partition(".")[0]
        self.key = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.target = Target(**_target(self.head["target"]))
        self.pipelines = {name: PipelineFacts.from_dict(facts) for name, facts in self.head["pipelines"].items()}
        self._same = SameEffect(self.pipelines)
        rows = [(configuration_of(line), line) for line in lines if "configuration" in line]
        first_call_s: dict[str, float] = {}
        for configuration, row in rows:
            kind = _compiled_kind(configuration)
            first_call_s[kind] = max(first_call_s.get(kind, 0.0), _first_call_s(row))
        answers: dict[Configuration, list[Answer]] = {}
        for configuration, row in rows:
            kind = _compiled_kind(configuration)
            seconds = row["seconds"] + (first_call_s[kind] - _first_call_s(row) if kind else 0.0)
            answers.setdefault(configuration, []).append(_answer(row, seconds))
        self.rows = {configuration: _middle(found) for configuration, found in answers.items()}
        self.space = _space(list(self.rows))
        self.by_effect = {self._same.of(one): answer for one, answer in self.rows.items()}
        self._answers: dict[Configuration, Answer] = {}

    @property
    def large(self) -> bool:
        """Whether there is enough in it for a search to choose from."""
        return len(self.rows) >= LARGE

    def offered(self, wanted: Configuration, had: set[Any], random: np.random.Generator) -> Configuration:
        """What is measured in the place of what a search wants: in a large table the row that differs least from it, of
        those whose effects it has not had; of several, any.
        """
        if not self.large or wanted in self.rows:
            return wanted
        left = [row for row, effect in self._possible.items() if effect not in had]
        differences = np.array([len(self._parts[row] ^ frozenset(_values(wanted))) for row in left])
        return left[int(random.choice(np.flatnonzero(differences == differences.min())))]

    @cached_property
    def _possible(self) -> dict[Configuration, Any]:
        return {row: self.effect(row) for row in self.rows if not self.impossible(row)}

    @cached_property
    def _parts(self) -> dict[Configuration, frozenset[Any]]:
        return {row: frozenset(_values(row)) for row in self.rows}

    @cached_property
    def model(self) -> "Model":
        """Of what is not in the table."""
        return Model(self)

    def answer(self, configuration: Configuration) -> Answer:
        """What measuring it would have found."""
        if configuration not in self._answers:
            measured = self.rows.get(configuration) or self.by_effect.get(self.effect(configuration))
            self._answers[configuration] = measured or self.model.answer(configuration)
        return self._answers[configuration]

    def impossible(self, configuration: Configuration) -> bool:
        """Whether a launch would refuse it."""
        return impossible(configuration, self.target, self.pipelines) is not None

    def effect(self, configuration: Configuration) -> Any:
        """Equal for configurations that do the same."""
        return self._same.of(configuration)

    def known(self, configuration: Configuration) -> Known:
        """As the surrogate sees it."""
        found = self.answer(configuration)
        return Known(
            configuration=configuration,
            works=found.works,
            objectives=found.objectives if found.works else (),
            picture_violation=found.drift - NEAR_LOSSLESS if found.works and found.drift is not None else 0.0,
            seconds=found.seconds,
        )

    @cached_property
    def best_ms(self) -> float:
        """The least acceptable latency that was measured."""
        return min(row.latency_ms for row in self.rows.values() if row.acceptable)


def _target(data: dict[str, Any]) -> dict[str, Any]:
    capability = data.get("compute_capability")
    return {
        **data,
        "compute_capability": tuple(capability) if capability else None,
        "packages": frozenset(data.get("packages", ())),
    }


def _first_call_s(row: dict[str, Any]) -> float:
    return float(row.get("phases_s", {}).get("first_call", 0.0))


def _compiled_kind(configuration: Configuration) -> str:
    """What a compiler makes of it, roughly: the compiling techniques, and which step cache parts the denoiser. Empty
    where nothing is compiled.
    """
    steps = [(step, technique(step.technique).traits_with(step.parameters)) for step in configuration.steps]
    compiled = [f"{step.technique}{step.values()}" for step, traits in steps if Trait.COMPILES in traits]
    cached = [step.technique for step, traits in steps if Trait.CACHES_STEPS in traits]
    return " ".join(compiled + cached) if compiled else ""


def _answer(row: dict[str, Any], seconds: float) -> Answer:
    if row["outcome"] != "complete":
        return Answer(works=False, seconds=seconds)
    return Answer(
        works=True,
        latency_ms=row["latency_ms"],
        memory_gib=row["peak_vram_gib"],
        drift=row["drift"],
        seconds=seconds,
    )


def _middle(answers: Sequence[Answer]) -> Answer:
    """Of one configuration, measured in several processes."""
    worked = [one for one in answers if one.works]
    if not worked:
        return answers[0]
    drifts = [one.drift for one in worked if one.drift is not None]
    return Answer(
        works=True,
        latency_ms=statistics.median(one.latency_ms for one in worked),
        memory_gib=statistics.median(one.memory_gib for one in worked),
        drift=max(drifts) if drifts else None,
        seconds=statistics.median(one.seconds for one in worked),
    )


def _space(configurations: Sequence[Configuration]) -> SearchSpace:
    """Every technique with every value that was measured."""
    choices: dict[str, dict[str, dict[Any, None]]] = {}
    for step in itertools.chain.from_iterable(one.steps for one in configurations):
        values = choices.setdefault(step.technique, {})
        for parameter, value in step.values().items():
            values.setdefault(parameter, {})[value] = None
    wanted = {t: {p: list(v) for p, v in parameters.items()} for t, parameters in choices.items()}
    return SearchSpace.of(wanted)


class Model:
    """Works out what was not measured, from what was.

    Latency, memory and seconds as logarithms, drift as the logarithm of 0.1 more: a ridge regression on techniques,
    values and pairs of techniques, plus what the nearest rows are off it, weighted by how little they differ. Nothing
    is better than the best that was measured. What has in it a technique, or two together, that never worked, fails.
    """

    PENALTY, PAIRS_PENALTY, NEIGHBOURS = 0.3, 1.0, 6

    def __init__(self, table: Table) -> None:
        working = {one: row for one, row in table.rows.items() if row.works}
        self._best_ms = table.best_ms
        self._judged = all(row.drift is not None for row in working.values())
        self._columns: dict[Any, int] = {}
        for one in working:
            for feature in _features(one):
                self._columns.setdefault(feature, len(self._columns))
        self._rows = self._encode(list(working))
        pairs = np.array([isinstance(feature, frozenset) for feature in self._columns])
        penalty = np.diag(np.where(pairs, self.PAIRS_PENALTY, self.PENALTY))
        columns = [
            [
                math.log(row.latency_ms),
                math.log(row.memory_gib),
                math.log(row.seconds),
                math.log(0.1 + (row.drift or 0)),
            ]
            for row in working.values()
        ]
        values = np.array(columns)
        self._least = values.min(axis=0)
        self._middle = values.mean(axis=0)
        inverse = np.linalg.inv(self._rows.T @ self._rows + penalty) @ self._rows.T
        self._weights = inverse @ (values - self._middle)
        self._off = values - self._middle - self._rows @ self._weights
        # Of each row as it would be predicted without it.
        leverage = np.clip((self._rows * inverse.T).sum(axis=1), 0, 0.95)
        self._off_without = self._off / (1 - leverage)[:, None]
        near = self._nearness(self._rows)
        np.fill_diagonal(near, 0)
        errors = self._off_without - self._shares(near) @ self._off_without
        self.error = float(np.median(np.abs(np.expm1(errors[:, 0]))))
        """Of latency, relative: the median over the rows, each worked out from the others."""
        self._failing = _failing(table)

    def answer(self, configuration: Configuration) -> Answer:
        """Works it out."""
        names = [step.technique for step in configuration.steps]
        row = self._encode([configuration])
        predicted = self._middle + row @ self._weights + self._shares(self._nearness(row)) @ self._off
        predicted = np.maximum(predicted, self._least)[0]
        latency, memory, seconds, drift = (float(value) for value in np.exp(predicted))
        if any(set(failing) <= set(names) for failing in self._failing):
            return Answer(works=False, seconds=seconds, measured=False)
        drifted = drift - 0.1 if self._judged else None
        made_up = Answer(True, latency, memory, drifted, seconds, measured=False)
        return replace(made_up, latency_ms=max(latency, self._best_ms)) if made_up.acceptable else made_up

    def _encode(self, configurations: Sequence[Configuration]) -> Array:
        rows = np.zeros((len(configurations), len(self._columns)))
        for row, configuration in zip(rows, configurations, strict=True):
            for feature in _features(configuration):
                if feature in self._columns:
                    row[self._columns[feature]] = 1.0
        return rows

    def _nearness(self, rows: Array) -> Array:
        """(wanted, known)."""
        differences = rows.sum(axis=1)[:, None] + self._rows.sum(axis=1)[None, :] - 2 * rows @ self._rows.T
        return np.asarray(np.exp(-differences / 3.0))

    def _shares(self, near: Array) -> Array:
        kept = np.sort(near, axis=1)[:, -self.NEIGHBOURS][:, None]
        near = np.where(near >= kept, near, 0.0)
        return np.asarray(near / (near.sum(axis=1) + 0.05)[:, None])


def _values(configuration: Configuration) -> Iterator[Any]:
    for step in configuration.steps:
        yield step.technique
        yield from ((step.technique, name, value) for name, value in step.values().items())


def _features(configuration: Configuration) -> Iterator[Any]:
    names = [step.technique for step in configuration.steps]
    yield from _values(configuration)
    yield from map(frozenset, itertools.combinations(names, 2))


def _failing(table: Table) -> list[frozenset[str]]:
    """Techniques, and pairs of them, of which two rows or more failed and none worked."""
    failed: dict[frozenset[str], int] = {}
    worked: set[frozenset[str]] = set()
    for configuration, row in table.rows.items():
        names = [step.technique for step in configuration.steps]
        groups = [frozenset(group) for size in (1, 2) for group in itertools.combinations(names, size)]
        if row.works:
            worked.update(groups)
        else:
            for group in groups:
                failed[group] = failed.get(group, 0) + 1
    return [group for group, count in failed.items() if count > 1 and group not in worked]


# Searches


Policy = Callable[[Table, int], Iterator[Configuration]]
"""Yields configurations that may be measured, the reference not among them, until it is told to stop."""


class AmongRows(Surrogate):
    """Weighs all rows of a table, instead of what a few changes lead to: what it asks for has been measured."""

    def __init__(self, table: Table, allowed: Callable[[Configuration], bool], seed: int) -> None:
        """allowed: as of any surrogate."""
        super().__init__(table.space, allowed, seed)
        self._rows = {row: {step.technique: step.values() for step in row.steps} for row in table.rows}

    def _best_of(self, known: Sequence[Known], values: Array, *, fast: bool) -> Configuration | None:
        left = [row for row in self._rows if self._allowed(row)]
        if fast:
            left = [row for row in left if MAKES_NOTHING_FASTER.isdisjoint(self._rows[row])] or left
        promise = self._promise(known, values, fast=fast)([self._rows[row] for row in left]) if left else ()
        return left[int(np.argmax(promise))] if left else None


def ours(
    table: Table,
    seed: int,
    places: int = 1,
    make: Callable[[Table, Callable[[Configuration], bool], int], Surrogate] | None = None,
) -> Iterator[Configuration]:
    """As a launch: quick recipes, the others and torch.compile, which reports compare with, the surrogate, and TPE
    where that is silent. places: so many trials run at once. make: the surrogate, unless it is the launch's.
    """
    compiled = [TORCH_COMPILE] if TORCH_COMPILE in table.space and not table.impossible(TORCH_COMPILE) else []
    recipes = list(fitting_recipes(table.space, table.target, table.pipelines))
    quick = [one for recipe, one in recipes if is_quick(recipe, one)]
    yield from _guided(table, seed, quick, compiled + [one for _, one in recipes if one not in quick], places, make)


def ours_among_rows(table: Table, seed: int) -> Iterator[Configuration]:
    """The same, but that the surrogate chooses from a large table's rows."""
    yield from ours(table, seed, make=AmongRows)


def random_among_rows(table: Table, seed: int) -> Iterator[Configuration]:
    """A large table's rows in any order."""
    rows = [row for row in table.rows if row.steps and not table.impossible(row)]
    yield from (rows[index] for index in np.random.default_rng(seed).permutation(len(rows)))


def four_in_flight(table: Table, seed: int) -> Iterator[Configuration]:
    """The same at four places."""
    yield from ours(table, seed, 4)


def without_recipes(table: Table, seed: int) -> Iterator[Configuration]:
    """The surrogate from the reference on."""
    yield from _guided(table, seed, [], [])


def _guided(
    table: Table,
    seed: int,
    first: list[Configuration],
    later: list[Configuration],
    places: int = 1,
    make: Callable[[Table, Callable[[Configuration], bool], int], Surrogate] | None = None,
) -> Iterator[Configuration]:
    """first: in their order; later: then, the one that promises most. What runs is known when its seconds are over."""
    known = [Configuration()]
    running: list[tuple[float, Configuration]] = []
    now_s = 0.0
    effects = {table.effect(Configuration())}
    random = np.random.default_rng(seed)
    wanted: set[Configuration] = set()

    def new(configuration: Configuration) -> bool:
        if configuration in wanted or table.impossible(configuration):
            return False
        return table.effect(configuration) not in effects

    surrogate = Surrogate(table.space, new, seed) if make is None else make(table, new, seed)
    fallback = POLICIES["tpe"](table, seed)
    queue = list(first)
    while True:
        if len(running) == places:
            now_s, ended = min(running, key=lambda one: one[0])
            running.remove((now_s, ended))
            known.append(ended)
        seen, busy = [table.known(one) for one in known], [one for _, one in running]
        if not queue and later:
            queue.append(surrogate.first_of(later, seen, busy))
            later.remove(queue[0])
        guessed = None if queue else surrogate.propose(seen, busy)
        proposed = queue.pop(0) if queue else guessed or next(fallback)
        if not new(proposed):
            continue
        wanted.add(proposed)
        offered = table.offered(proposed, effects, random)
        running.append((now_s + table.answer(offered).seconds, offered))
        effects.add(table.effect(offered))
        yield offered


def _optuna(make: Callable[[int], optuna.samplers.BaseSampler], *, constrained: bool = True) -> Policy:
    """constrained: the sampler takes constraints of complete trials; what fails is told as pruned with one."""

    def policy(table: Table, seed: int) -> Iterator[Configuration]:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        width = len(table.answer(Configuration()).objectives)
        study = optuna.create_study(directions=["minimize"] * width, sampler=make(seed))
        study.enqueue_trial(table.space.optuna_parameters(Configuration()))
        seen: set[Any] = set()
        random = np.random.default_rng(seed)
        fruitless = 0
        while fruitless < FRUITLESS:
            trial = study.ask()
            configuration = table.space.suggest(trial)
            fruitless += 1
            if table.impossible(configuration):
                trial.set_constraint("runs", 1.0)
                study.tell(trial, state=TrialState.PRUNED)
                continue
            if (effect := table.effect(configuration)) in seen:
                study.tell(trial, state=TrialState.PRUNED)
                continue
            if (offered := table.offered(configuration, seen, random)) != configuration:
                # Forgotten, and asked for what is measured in its place.
                study.tell(trial, state=TrialState.FAIL)
                study.enqueue_trial(table.space.optuna_parameters(offered))
                continue
            fruitless = 0
            seen.add(effect)
            if configuration.steps:
                yield configuration
            known = table.known(configuration)
            if not known.works:
                trial.set_constraint("runs", 1.0)
                study.tell(trial, state=TrialState.PRUNED)
                continue
            trial.set_constraint("runs", -1.0)
            trial.set_constraint("verdict", known.picture_violation)
            study.tell(trial, list(known.objectives))

    return policy


POLICIES: dict[str, Policy] = {
    "ours": ours,
    "ours, 4 in flight": four_in_flight,
    "ours without recipes": without_recipes,
    "ours, among rows": ours_among_rows,
    "random, among rows": random_among_rows,
    "tpe": _optuna(lambda seed: TPESampler(multivariate=True, group=True, n_startup_trials=8, seed=seed)),
    "gp": _optuna(lambda seed: GPSampler(n_startup_trials=8, seed=seed)),
    "random": _optuna(lambda seed: RandomSampler(seed=seed)),
}
AMONG_ROWS = ("ours, among rows", "random, among rows")
"""Tried on large tables only: 60 trials would exhaust a small one."""
MEANING = {
    "ours": "what a launch does: quick recipes, the others and torch.compile by what they promise, then the surrogate",
    "ours, 4 in flight": "the same at four places: what runs counts as the model expects it",
    "ours without recipes": "the surrogate from the reference on",
    "ours, among rows": "ours, but that the surrogate chooses from a large table's rows: it gets what it asks for",
    "random, among rows": "the rows of a large table in any order",
    "tpe": "Optuna's TPESampler, multivariate, constrained, several objectives",
    "gp": "Optuna's GPSampler, constrained, several objectives",
    "random": "Optuna's RandomSampler",
}


# Judging


def volume(table: Table, answers: Sequence[Answer]) -> float:
    """What the acceptable ones dominate, of the box between nothing and the reference."""
    reference = table.answer(Configuration()).objectives
    corner = (reference[0], reference[1] * 1.5, NEAR_LOSSLESS)
    points = [one.objectives for one in answers if one.acceptable]
    scaled = [tuple(v / c for v, c in zip(point, corner, strict=False)) for point in points]
    inside = sorted(point for point in scaled if all(value < 1 for value in point))
    return _volume(inside, len(reference))


def _volume(points: list[tuple[float, ...]], dimensions: int) -> float:
    if not points:
        return 0.0
    if dimensions == 1:
        return 1 - min(point[0] for point in points)
    # Slices along the last dimension.
    levels = [*sorted({point[dimensions - 1] for point in points}), 1.0]
    return sum(
        (above - level) * _volume([p for p in points if p[dimensions - 1] <= level], dimensions - 1)
        for level, above in itertools.pairwise(levels)
    )


def try_policy(table: Table, name: str, seed: int, trials: int = TRIALS) -> dict[str, Any]:
    """One search."""
    answers = [table.answer(Configuration())]
    minutes = answers[0].seconds / 60
    reached: tuple[int, float] | None = None
    volumes: dict[str, float] = {}
    limit_ms = NEAR * table.best_ms
    began = time.perf_counter()
    for number, configuration in enumerate(itertools.islice(POLICIES[name](table, seed), trials), start=1):
        found = table.answer(configuration)
        answers.append(found)
        minutes += found.seconds / 60
        if reached is None and found.acceptable and found.latency_ms <= limit_ms:
            reached = number, minutes
        if number in MARKS:
            volumes[str(number)] = volume(table, answers)
    return {
        "reached": reached,
        "volumes": volumes,
        "last": volume(table, answers),
        "minutes": minutes,
        "modelled": sum(not one.measured for one in answers[1:]),
        "failed": sum(not one.works for one in answers[1:]),
        "trials": len(answers) - 1,
        "best_ms": min(one.latency_ms for one in answers if one.acceptable),
        "took_s": round(time.perf_counter() - began, 1),
    }


_tables: dict[str, Table] = {}


def _task(task: tuple[str, str, int]) -> tuple[tuple[str, str, int], dict[str, Any]]:
    file, name, seed = task
    if file not in _tables:
        _tables[file] = Table(Path(file))
    return task, try_policy(_tables[file], name, seed)


class Kept:
    """Tries that are done, a line each."""

    def __init__(self, file: Path) -> None:
        """Reads what is there."""
        self._file = file
        lines = file.read_text().splitlines() if file.is_file() else []
        self.done = {tuple(line["of"]): line["try"] for line in map(json.loads, lines)}

    def add(self, key: tuple[str, str, int], found: dict[str, Any]) -> None:
        """At once."""
        self.done[key] = found
        with self._file.open("a") as file:
            file.write(json.dumps({"of": key, "try": found}) + "\n")


def report(table: Table, tries: dict[str, list[dict[str, Any]]]) -> str:
    """A table's results, as Markdown."""
    machine = table.head["fingerprint"]["device_name"]
    judged = sum(row.acceptable for row in table.rows.values())
    failed = sum(not row.works for row in table.rows.values())
    whole = volume(table, list(table.rows.values())) or 1.0
    between = (
        "What is proposed and was not measured is replaced by the nearest row that the search has not had."
        if table.large
        else "What was not measured is answered by a model of the table, which is "
        f"{table.model.error:.1%} off the latency of a row that it has not seen (median)."
    )
    lines = [
        f"## {table.name}",
        "",
        f"{table.head['study']} on {machine}: {len(table.rows)} configurations measured, {judged} of them acceptable, "
        f"{failed} failed; a space of {table.space.size():.1e}. The reference takes "
        f"{table.answer(Configuration()).latency_ms:.0f} ms, the best acceptable {table.best_ms:.0f} ms. {between} "
        f"{table.head.get('note', '')}",
        "",
        "| search | n | within 5 % at 20 | at 40 | at 60 | trials until then | minutes until then | minutes, 60 trials "
        "| volume at 20 | at 40 | at 60 | failed | modelled |",
        "| --- " * 13 + "|",
    ]
    for name, found in tries.items():
        if not found:
            continue
        n = len(found)
        within = [f"{sum(1 for t in found if t['reached'] and t['reached'][0] <= mark)}/{n}" for mark in MARKS]
        trials, minutes = (_spread([t["reached"][i] if t["reached"] else math.inf for t in found], i) for i in (0, 1))
        volumes = [statistics.mean(t["volumes"].get(str(mark), t["last"]) for t in found) / whole for mark in MARKS]
        spent = sum(t["trials"] for t in found)
        cells = [name, str(n), *within, trials, minutes, _spread([t["minutes"] for t in found], 1)]
        cells += [f"{v:.0%}" for v in volumes]
        cells += [f"{sum(t[key] for t in found) / spent:.0%}" for key in ("failed", "modelled")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    """Median, and the middle half."""
    low, middle, high = (sorted(values)[round(q * (len(values) - 1))] for q in (0.25, 0.5, 0.75))
    words = [f"{value:.{digits}f}" if math.isfinite(value) else "never" for value in (middle, low, high)]
    return f"{words[0]} ({words[1]} to {words[2]})"


HEAD = """# How soon a search finds what there is

```
{command}
```

Each search is replayed on each table of measured configurations with {seeds} seeds (n where fewer are done), {trials}
trials each. "Within 5 %": in how many of them the fastest acceptable (near-lossless) configuration so far is within
5 % of the fastest acceptable one that was ever measured there. "Until then": median over the seeds, and the middle
half of them; a seed that never gets there counts as infinite. Minutes are what the trials would have taken one after
the other, compiling included. Volume: what the acceptable trials dominate (latency, memory, drift), over what all
measured rows dominate. What is proposed and was not measured is treated alike for every search: in a table of {large}
rows or more the search gets, and is told of, the row that differs from it in the fewest techniques and values, of those
that it has not had; a smaller one, which 60 trials would exhaust, is filled up by a model of itself, and "modelled" is
the share of such answers. Known impossible combinations, and repetitions of the same effect, cost nothing.

{policies}
"""


def main() -> None:
    """Every policy on every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0, help="20, say, for seeds that no change was chosen by")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="by default all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kept", type=Path, default=Path("search-tries.jsonl"), help="tries that are done already")
    parser.add_argument("--again", action="append", default=[], choices=POLICIES, help="forget what is kept of these")
    parser.add_argument("--out", type=Path, help="Markdown; by default it is printed")
    options = parser.parse_args()
    names = options.policy or list(POLICIES)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if "gp" in names and find_spec("scipy") is None:
        print("GPSampler needs scipy, which is not installed: what is kept of it is shown", file=sys.stderr)
    tables = {str(file): Table(file) for file in options.tables}
    kept = Kept(options.kept)
    tasks = [
        (file, name, seed)
        for name in names
        for seed in seeds
        for file, table in tables.items()
        if (name in options.again or (table.key, name, seed) not in kept.done) and (name != "gp" or find_spec("scipy"))
        if table.large or name not in AMONG_ROWS
    ]
    with multiprocessing.Pool(options.processes) as pool:
        for (file, name, seed), found in pool.imap_unordered(_task, tasks):
            kept.add((tables[file].key, name, seed), found)
            print(f"{tables[file].name} {name} {seed}: {found['reached']}", file=sys.stderr, flush=True)
    parts = [
        HEAD.format(
            command=f"python benchmarks/search.py {' '.join(map(str, options.tables))} --out {options.out}",
            seeds=options.seeds if options.first_seed == 0 else f"{options.seeds} other",
            large=LARGE,
            trials=TRIALS,
            policies="\n".join(f"- *{name}*: {MEANING[name]}." for name in names),
        )
    ]
    for table in tables.values():
        tries = {
            name: [kept.done[key] for seed in seeds if (key := (table.key, name, seed)) in kept.done] for name in names
        }
        parts.append(report(table, tries))
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text)


if __name__ == "__main__":
    main()

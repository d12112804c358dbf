"""Tables of measured configurations, as searches are tried on them: what each proposal would have found.

What was measured is answered as it was measured, and what was measured in several processes with their median. A trial
costs the seconds that its row took; where a compiler's cache was warm, its first call counts as long as the longest of
the same kind. Anything else depends on the table, and is the same for every search. In a large one (`Table.large`) the
search gets, and is told of, the row that differs least from its proposal, of those that it has not had: all answers are
measured. A search of 60 trials would exhaust a small one: it is filled up by a model of itself (see `Model`).
"""

import gzip
import hashlib
import itertools
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from paretune.agent.search.surrogate import Known
from paretune.search_space import (
    Configuration,
    PipelineFacts,
    SameEffect,
    SearchSpace,
    Target,
    Trait,
    impossible,
    technique,
)
from record_table import NEAR_LOSSLESS, configuration_of

LARGE = 150
"""Rows, so that a search of 60 trials sees less than half of the table."""
Array = np.ndarray


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

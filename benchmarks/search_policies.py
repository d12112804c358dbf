"""The searches that are tried on recorded tables: what a launch does, parts of it, and Optuna's own samplers."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from paretune.agent.results import TORCH_COMPILE
from paretune.agent.search.surrogate import Known, Surrogate
from paretune.search_space import MAKES_NOTHING_FASTER, Configuration, fitting_recipes, is_quick
from search_tables import Array, Table

FRUITLESS = 3000
"""Proposals in a row that cost nothing, after which a sampler of Optuna's has nothing more to say."""
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

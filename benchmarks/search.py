"""Searches tried on recorded tables: how soon does each find what the table has?

    python benchmarks/search.py benchmarks/tables/*.json
    python benchmarks/search.py --seeds 5 --policy ours --policy tpe TABLE

A table holds every configuration's recorded outcome (benchmarks/record_table.py). What is not in the table counts as
refused and costs nothing, as impossible combinations do in a launch. Per table and policy, over the seeds, Markdown:
in how many seeds the best acceptable latency is within 5 % of the table's after 20, 40 and 60 trials; the median number
of trials and of minutes until then; the share of the table's hypervolume (latency, memory and drift against the
reference's) after 20, 40 and 60 trials.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from paretune.agent.search.surrogate import Known, Surrogate
from paretune.search_space import Configuration, PipelineFacts, SearchSpace, Target, fitting_recipes

TRIALS = 60
MARKS = (20, 40, 60)
NEAR = 1.05
DRIFT_LIMIT = 2.0
"""Near-lossless."""
FRUITLESS = 2000


@dataclass(frozen=True)
class Table:
    """Recorded rows by configuration, and the space that they lie in."""

    name: str
    rows: dict[Configuration, dict[str, Any]]
    space: SearchSpace
    target: Target
    pipelines: dict[str, PipelineFacts]

    @classmethod
    def read(cls, file: Path) -> "Table":
        """Raises KeyError for a file that is no table."""
        data = json.loads(file.read_text())
        rows = {}
        choices: dict[str, dict[str, dict[Any, None]]] = {}
        for row in data["rows"]:
            pairs = [next(iter(step.items())) for step in row["configuration"]]
            configuration = Configuration.of(pairs)
            rows[configuration] = row
            for step in configuration.steps:
                for parameter, value in step.values().items():
                    choices.setdefault(step.technique, {}).setdefault(parameter, {})[value] = None
                choices.setdefault(step.technique, {})
        space = SearchSpace.from_dict({t: {p: list(v) for p, v in ps.items()} for t, ps in choices.items()})
        pipelines = {name: PipelineFacts.from_dict(facts) for name, facts in data["pipelines"].items()}
        return cls(file.stem, rows, space, Target(**_target(data["target"])), pipelines)

    def known(self, configuration: Configuration) -> Known:
        """A row as the surrogate sees it."""
        row = self.rows[configuration]
        works = row["outcome"] == "complete"
        return Known(
            configuration=configuration,
            works=works,
            objectives=(row["latency_ms"], row["peak_vram_gib"], row["drift"]) if works else (),
            violation=row["drift"] - DRIFT_LIMIT if works else 0.0,
            seconds=row["seconds"],
        )

    def acceptable(self, configuration: Configuration) -> bool:
        """Whether its pictures are near-lossless."""
        row = self.rows[configuration]
        return row["outcome"] == "complete" and row["drift"] <= DRIFT_LIMIT

    @property
    def best_ms(self) -> float:
        """The least acceptable latency in the table."""
        return min(row["latency_ms"] for configuration, row in self.rows.items() if self.acceptable(configuration))


def _target(data: dict[str, Any]) -> dict[str, Any]:
    capability = data.get("compute_capability")
    return {
        **data,
        "compute_capability": tuple(capability) if capability else None,
        "packages": frozenset(data.get("packages", ())),
    }


Policy = Callable[[Table, int], Iterator[Configuration]]
"""Yields configurations of the table, each once, until it is told to stop."""


def ours(table: Table, seed: int) -> Iterator[Configuration]:
    """Recipes, then the surrogate, then whatever TPE proposes."""
    known = [Configuration()]
    for _, configuration in fitting_recipes(table.space, table.target, table.pipelines):
        if configuration in table.rows and configuration not in known:
            known.append(configuration)
            yield configuration
    yield from _guided(table, seed, known)


def without_recipes(table: Table, seed: int) -> Iterator[Configuration]:
    """The surrogate from the reference on."""
    yield from _guided(table, seed, [Configuration()])


def _guided(table: Table, seed: int, known: list[Configuration]) -> Iterator[Configuration]:
    surrogate = Surrogate(table.space, lambda one: one in table.rows and one not in known, seed)
    fallback = random(table, seed)
    while True:
        proposed = surrogate.propose([table.known(one) for one in known])
        if proposed is None:
            proposed = next(one for one in fallback if one not in known)
        known.append(proposed)
        yield proposed


def _optuna(make: Callable[[int], optuna.samplers.BaseSampler]) -> Policy:
    def policy(table: Table, seed: int) -> Iterator[Configuration]:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(directions=["minimize"] * 3, sampler=make(seed))
        study.enqueue_trial(table.space.optuna_parameters(Configuration()))
        seen: set[Configuration] = set()
        fruitless = 0
        while fruitless < FRUITLESS:
            trial = study.ask()
            configuration = table.space.suggest(trial)
            fruitless += 1
            if configuration not in table.rows:
                trial.set_constraint("runs", 1.0)
                study.tell(trial, state=TrialState.PRUNED)
                continue
            if configuration in seen:
                study.tell(trial, state=TrialState.PRUNED)
                continue
            fruitless = 0
            seen.add(configuration)
            if configuration.steps:
                yield configuration
            known = table.known(configuration)
            if not known.works:
                trial.set_constraint("runs", 1.0)
                study.tell(trial, state=TrialState.PRUNED)
                continue
            trial.set_constraint("runs", -1.0)
            trial.set_constraint("verdict", known.violation)
            study.tell(trial, list(known.objectives))

    return policy


random = _optuna(lambda seed: RandomSampler(seed=seed))
POLICIES: dict[str, Policy] = {
    "ours": ours,
    "ours without recipes": without_recipes,
    "tpe": _optuna(lambda seed: TPESampler(multivariate=True, group=True, n_startup_trials=8, seed=seed)),
    "gp": _optuna(lambda seed: GPSampler(n_startup_trials=8, seed=seed)),
    "random": random,
}


def hypervolume(table: Table, configurations: list[Configuration]) -> float:
    """What the acceptable ones dominate, of the box between nothing and the reference."""
    reference = table.known(Configuration()).objectives
    corner = (reference[0], reference[1] * 1.5, DRIFT_LIMIT)
    points = [table.known(one).objectives for one in configurations if table.acceptable(one)]
    scaled = [tuple(v / c for v, c in zip(point, corner, strict=True)) for point in points]
    inside = [point for point in scaled if all(value < 1 for value in point)]
    return _volume(sorted(inside), 3)


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


def try_policy(table: Table, policy: Policy, seed: int) -> dict[str, Any]:
    """One search of TRIALS trials."""
    measured = [Configuration()]
    minutes = table.rows[Configuration()]["seconds"] / 60
    reached: tuple[int, float] | None = None
    volumes: dict[int, float] = {}
    limit_ms = NEAR * table.best_ms
    for number, configuration in enumerate(itertools.islice(policy(table, seed), TRIALS), start=1):
        measured.append(configuration)
        row = table.rows[configuration]
        minutes += row["seconds"] / 60
        if reached is None and table.acceptable(configuration) and row["latency_ms"] <= limit_ms:
            reached = number, minutes
        if number in MARKS:
            volumes[number] = hypervolume(table, measured)
    return {"reached": reached, "volumes": volumes, "last": hypervolume(table, measured)}


def main() -> None:
    """Every policy on every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--policy", action="append", choices=POLICIES)
    options = parser.parse_args()
    head = [f"within 5 % at {mark}" for mark in MARKS] + ["trials", "minutes"] + [f"volume at {m}" for m in MARKS]
    for file in options.tables:
        table = Table.read(file)
        print(f"\n{table.name}: {len(table.rows)} configurations, the best acceptable takes {table.best_ms:.0f} ms\n")
        print(f"| policy | {' | '.join(head)} |\n{'| --- ' * (len(head) + 1)}|")
        whole = hypervolume(table, list(table.rows)) or 1.0
        for name in options.policy or POLICIES:
            tries = [try_policy(table, POLICIES[name], seed) for seed in range(options.seeds)]
            within = [sum(1 for t in tries if t["reached"] and t["reached"][0] <= mark) for mark in MARKS]
            never = (float("inf"), float("inf"))
            trials = statistics.median((t["reached"] or never)[0] for t in tries)
            minutes = statistics.median((t["reached"] or never)[1] for t in tries)
            volumes = [statistics.mean(t["volumes"].get(mark, t["last"]) for t in tries) / whole for mark in MARKS]
            cells = [f"{n}/{options.seeds}" for n in within] + [f"{trials:.0f}", f"{minutes:.1f}"]
            print(f"| {name} | {' | '.join(cells + [f'{v:.0%}' for v in volumes])} |", flush=True)


if __name__ == "__main__":
    main()

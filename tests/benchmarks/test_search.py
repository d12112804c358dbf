"""Searches replayed on tables of measured configurations."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paretune.search_space import Configuration
from search import NEAR, report, try_policy
from search_policies import POLICIES
from search_tables import Model, Table

TABLES = Path(__file__).parents[2] / "benchmarks" / "tables"
SDXL = TABLES / "sdxl-h200.jsonl.gz"


@pytest.fixture(scope="module")
def table() -> Table:
    return Table(SDXL)


def test_what_was_measured_is_answered_as_it_was_measured(table: Table) -> None:
    for configuration, row in table.rows.items():
        assert configuration in table.space
        assert table.answer(configuration) == row


def test_what_was_not_measured_is_worked_out_for_every_search_alike(table: Table) -> None:
    best = min(row.latency_ms for row in table.rows.values())
    unknown = [one for one in itertools.islice(POLICIES["random"](table, 0), 30) if one not in table.rows]
    for configuration in unknown:
        found = table.answer(configuration)
        assert not found.measured
        assert found.latency_ms >= 0.999 * best, "nothing is made up that beats what was measured"
        assert found == Model(table).answer(configuration)
    assert table.model.error < 0.3


def test_in_a_large_table_a_search_gets_measured_rows_only() -> None:
    """In the place of what was not measured, the nearest row that it has not had: no answer is made up."""
    large = Table(TABLES / "quickstart-h200.jsonl.gz")
    assert large.large
    first = [list(itertools.islice(POLICIES[name](large, 0), 16)) for name in ("random", "ours")]
    for configurations in first:
        assert len({large.effect(one) for one in configurations}) == 16, "never the same one twice"
        assert all(one in large.rows for one in configurations)
    known = first[0][0]
    assert large.offered(known, set(), np.random.default_rng(0)) == known


def test_sdxl_is_solved_by_what_a_launch_does(table: Table) -> None:
    """Within 5 % of the best that was ever measured, within 20 trials and 20 minutes, compiling included."""
    found = try_policy(table, "ours", 0, trials=20)
    assert found["best_ms"] <= NEAR * table.best_ms
    assert found["reached"][0] <= 20
    assert found["reached"][1] <= 20
    said = report(table, {"ours": [found]})
    assert "| ours | 1 | 1/1 |" in said


def test_among_rows_a_search_gets_what_it_asks_for() -> None:
    """No row takes the place of another one, but of recipes that were not measured."""
    large = Table(TABLES / "quickstart-cpu.jsonl.gz")
    asked: list[bool] = []
    offered = large.offered

    def counting(wanted: Configuration, had: set[Any], random: np.random.Generator) -> Configuration:
        asked.append(wanted in large.rows)
        return offered(wanted, had, random)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "offered", counting)
        found = list(itertools.islice(POLICIES["ours, among rows"](large, 0), 24))
    assert len(set(found)) == 24
    assert all(asked[12:])
    assert all(one in large.rows for one in itertools.islice(POLICIES["random, among rows"](large, 0), 24))

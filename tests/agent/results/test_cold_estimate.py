"""Cold starts of what compiles: as in a worker that loads its compiled code, estimated at first, then measured."""

from typing import Any

import pytest
from paretune.agent.bundle.cold_table import cold_rows
from paretune.agent.results import Results, cold_start_words, headline
from paretune.agent.review import study_view
from paretune.search_space import Configuration
from support.replaying import World, world_in

COMPILED = str(Configuration.of({"torch_compile": {}}))


@pytest.fixture
def world(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> World:
    """One in which compiling takes a minute and a half, and pays."""
    world = world_in(tmp_path, monkeypatch)
    world.latency_ms = {COMPILED: 500.0}
    world.cold_starts_s = {COMPILED: 90.0}
    return world


def launched(world: World, **keys: Any) -> Results:
    """With torch.compile alone, under a limit that compiling breaks."""
    space = {"techniques": {"torch_compile": {}}, "presets": [[{"torch_compile": {}}]]}
    limits = {"cold_start_s": 20.0}
    return world.launch(world.study("a", [], space=space, limits=limits, budget={"trials": 2}, **keys))


def test_a_limit_on_the_cold_start_does_not_refuse_what_loads_its_compiled_code(world: World) -> None:
    results = launched(world)
    best = results.best()
    assert str(best.configuration) == COMPILED
    assert best.figure("cold_start_s") == 7.0, "the reference's, and two seconds for loading"
    assert cold_start_words(best) == "7.0 s (estimated; 90.0 s when it compiles)"
    assert cold_start_words(results.reference) == "5.0 s (estimated)"


def test_a_finalist_that_compiles_does_so_once_and_is_started_with_its_code(world: World) -> None:
    blocks = {"count": 1, "blocks": 3, "calls": 1, "cold_starts": 2}
    results = launched(world, finalists=blocks)
    assert [kind for kind, name in world.ran if name == COMPILED and kind.startswith("cold start")] == [
        *("cold start", "cold start with code", "cold start with code"),
    ]
    best = results.best()
    assert best.cold_start_way == "standalone_compile"
    assert cold_start_words(best) == "6.0 s (median of 2; estimated 7.0 s; 90.0 s when it compiles)"
    assert "cold start 6.0 s against 5.0 s (median of 2 fresh processes, with its compiled code loaded)" in headline(
        results
    )
    shown = [(start.number, start.way, start.seconds["cold_start_s"]) for start in study_view(results).cold_starts]
    assert shown == [(0, None, 5.0), (1, None, 90.0), (1, "standalone_compile", 6.0)]
    assert [(row.name, row.cold_start_s) for row in cold_rows(results, best, ())] == [
        ("eager: the pipelines unchanged", 5.0),
        ("torch.compile, default mode", 90.0),
    ]
    before = len(world.ran)
    launched(world, finalists=blocks)
    assert not [kind for kind, _ in world.ran[before:] if kind.startswith("cold start")], "measured once"

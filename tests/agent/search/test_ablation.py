"""What each technique of a trial earns, on replayed measurements."""

from pathlib import Path

import pytest
from paretune.agent.results import Ablation, ablation_of
from paretune.agent.review import ablation_lines, study_view, write_report
from paretune.agent.search import ablate
from paretune.agent.trial import Job, TrialResult
from paretune.search_space import Configuration
from paretune.studies import Outcome, Records, RunKind, UserError
from support.replaying import World, world_in

CACHED = "deepcache(interval=3, branch=0, full_percent=0)"
WHOLE = f"fused_qkv + channels_last + {CACHED}"
PRESET = {"fused_qkv": {}, "channels_last": {}, "deepcache": {"interval": 3, "branch": 0, "full_percent": 0}}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    found = world_in(tmp_path, monkeypatch)
    found.latency_ms = {
        WHOLE: 400.0,
        f"channels_last + {CACHED}": 450.0,
        f"fused_qkv + {CACHED}": 400.0,
        "fused_qkv + channels_last": 900.0,
        "channels_last": 990.0,
        "fused_qkv": 900.0,
        CACHED: 500.0,
    }
    found.memory_gib = {WHOLE: 2.5, f"channels_last + {CACHED}": 2.0}
    found.drift = {WHOLE: lambda count: 1.5, CACHED: lambda count: 1.4, "fused_qkv + channels_last": lambda count: 0.2}
    space = {"techniques": {name: {} for name in PRESET}, "presets": [[{n: v} for n, v in PRESET.items()]]}
    found.launch(found.study("a", [], space=space, budget={"trials": 2}))
    found.ran.clear()
    return found


def ablated(world: World, **options: int) -> Ablation:
    return ablate(Records(world.storage), "a", 1, runner=world, **options)


def test_it_tells_what_each_technique_earns(world: World) -> None:
    found = ablated(world, blocks=3)
    earned = {one.technique: one for one in found.earned}
    assert {name: round(one.without_ms or 0) for name, one in earned.items()} == {
        "fused_qkv": 50,
        "channels_last": 0,
        "deepcache": 500,
    }
    assert earned["deepcache"].without is not None
    assert earned["deepcache"].without.decision == "slower"
    assert earned["deepcache"].without_drift == 0.2
    assert earned["deepcache"].alone is not None
    assert round(earned["deepcache"].alone.times, 2) == 2.0
    assert earned["deepcache"].alone_drift == 1.4
    assert earned["channels_last"].without is not None
    assert earned["channels_last"].without.decision == "tie"
    assert earned["fused_qkv"].without_gib == -0.5
    assert (found.blocks, found.whole_ms, found.whole_drift) == (3, 400.0, 1.5)


def test_all_variants_take_turns(world: World) -> None:
    ablated(world, blocks=2)
    ran = [configuration for kind, configuration in world.ran if kind == "ablation"]
    assert len(ran) == 2 * 8
    assert ran[8:] == ran[:8][::-1]
    assert len(set(ran)) == 8
    assert {WHOLE, "reference"} < set(ran)


def test_what_fails_is_told_and_not_tried_again(world: World) -> None:
    def before(job: Job, kind: str) -> TrialResult | None:
        fails = str(Configuration.from_dict(job.configuration)) == "fused_qkv + channels_last"
        return TrialResult(outcome=Outcome.OOM, reason="too little memory") if fails else None

    world.before = before
    found = ablated(world, blocks=3)
    cached = next(one for one in found.earned if one.technique == "deepcache")
    assert cached.without is None
    assert cached.left_out == "oom: too little memory"
    assert sum(configuration == "fused_qkv + channels_last" for _, configuration in world.ran) == 1
    assert "deepcache: could not be left out (oom: too little memory)" in "\n".join(ablation_lines(found))


def test_the_newest_ablation_counts_and_the_trial_stays_what_it_was(world: World) -> None:
    results = world.launch(world.study("a", [], budget={"trials": 2}, space={"techniques": {n: {} for n in PRESET}}))
    before = results.trial(1).figure("latency_ms")
    ablated(world, blocks=2)
    world.latency_ms["fused_qkv + channels_last"] = 800.0
    ablated(world, blocks=2)
    results.refresh()
    found = ablation_of(results, results.trial(1))
    assert found is not None
    assert [round(one.without_ms or 0) for one in found.earned if one.technique == "deepcache"] == [400]
    assert results.trial(1).figure("latency_ms") == before
    assert len(results.runs(RunKind.ABLATION)) == 2 * 2 * 8, "nothing is rewritten"


def test_the_report_shows_it(world: World, tmp_path: Path) -> None:
    ablated(world, blocks=2)
    results = world.launch(world.study("a", [], budget={"trials": 2}, space={"techniques": {n: {} for n in PRESET}}))
    text = write_report(results, tmp_path / "report").read_text()
    assert "What each technique earns" in text
    assert "plot-ablation-1" in text
    assert "+500 ms" in text
    assert study_view(results).to_dict()["ablations"][0]["trial"] == 1


def test_there_is_nothing_to_leave_out_of_the_reference(world: World) -> None:
    with pytest.raises(UserError, match="nothing to leave out"):
        ablate(Records(world.storage), "a", 0, runner=world)

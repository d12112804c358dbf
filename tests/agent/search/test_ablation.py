"""What each technique of a trial earns, on replayed measurements."""

import json
from pathlib import Path

import ablation_chart
import pytest
from paretune.agent.bundle import export
from paretune.agent.bundle.export import bundle_readme
from paretune.agent.results import Ablation, ablation_of
from paretune.agent.review import ablation_lines, study_view, write_report
from paretune.agent.search import ablate
from paretune.agent.trial import Job, TrialResult
from paretune.search_space import Configuration
from paretune.studies import Outcome, Records, RunKind, UserError
from PIL import Image
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


def test_what_fails_later_is_told_too_and_what_the_machine_is_to_blame_for_is_tried_again(world: World) -> None:
    seen: list[str] = []

    def before(job: Job, kind: str) -> TrialResult | None:
        name = str(Configuration.from_dict(job.configuration))
        seen.append(name)
        if name == "fused_qkv + channels_last" and seen.count(name) > 1:
            return TrialResult(outcome=Outcome.OOM, reason="too little memory")
        if name == "fused_qkv" and seen.count(name) == 1:
            return TrialResult(outcome=Outcome.INFRASTRUCTURE, reason="the driver was reset")
        return None

    world.before = before
    found = ablated(world, blocks=3)
    cached = next(one for one in found.earned if one.technique == "deepcache")
    assert (cached.without, cached.left_out) == (None, "oom: too little memory")
    qkv = next(one for one in found.earned if one.technique == "fused_qkv")
    assert qkv.alone is not None
    assert seen.count("fused_qkv") == 3


def test_where_the_whole_fails_nothing_else_is_measured(world: World) -> None:
    def before(job: Job, kind: str) -> TrialResult | None:
        fails = str(Configuration.from_dict(job.configuration)) == WHOLE
        return TrialResult(outcome=Outcome.OOM, reason="too little memory") if fails else None

    world.before = before
    with pytest.raises(UserError):
        ablated(world, blocks=3)
    assert [configuration for kind, configuration in world.ran if kind == "ablation"] == [WHOLE]
    world.before = lambda job, kind: None
    assert ablated(world, blocks=2).blocks == 2


def test_one_that_was_interrupted_in_its_first_block_hides_no_earlier_one(world: World) -> None:
    ablated(world, blocks=2)

    def interrupted(job: Job, kind: str) -> None:
        if kind == "ablation" and len(world.ran) == 2 * 8 + 4:
            raise KeyboardInterrupt

    world.before = interrupted
    with pytest.raises(KeyboardInterrupt):
        ablated(world, blocks=2)
    world.before = lambda job, kind: None
    results = world.launch(world.study("a", [], budget={"trials": 2}, space={"techniques": {n: {} for n in PRESET}}))
    found = ablation_of(results, results.trial(1))
    assert found is not None
    assert found.blocks == 2


def test_an_interrupted_one_goes_on_where_it_stopped(world: World) -> None:
    def interrupted(job: Job, kind: str) -> None:
        if kind == "ablation" and len(world.ran) == 11:
            raise KeyboardInterrupt

    world.before = interrupted
    with pytest.raises(KeyboardInterrupt):
        ablated(world, blocks=2)
    world.before = lambda job, kind: None
    assert ablated(world, blocks=2).blocks == 2
    assert len([kind for kind, _ in world.ran if kind == "ablation"]) == 2 * 8 + 1


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


def test_a_bundle_of_the_trial_has_it(world: World) -> None:
    results = world.launch(world.study("a", [], budget={"trials": 2}, space={"techniques": {n: {} for n in PRESET}}))
    assert "What each technique earns" not in bundle_readme(results.trial(1))
    ablated(world, blocks=2)
    trial = results.refresh().trial(1)
    bundle = export(results, trial, world.folder / "bundle", unconfirmed=True)
    readme = (bundle / "README.md").read_text()
    assert "| deepcache | +500 ms | -0.50 GiB | 2.25 times as long (2.25 to 2.25) | 2.00 (2.00 to 2.00) |" in readme
    assert "| fused_qkv | +50 ms | -0.50 GiB |" in readme
    stored = json.loads((bundle / "evidence" / "ablation.json").read_text())
    assert stored["whole_ms"] == 400.0
    assert "evidence/ablation.json" in (bundle / "manifest.json").read_text()


def test_the_chart_in_the_readme_is_drawn_from_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    file = world.folder / "ablation.png"
    arguments = ["ablation_chart.py", "a", "--storage", world.storage, "--out", str(file)]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match="paretune ablate a does that"):
        ablation_chart.main()
    ablated(world, blocks=2)
    ablation_chart.main()
    with Image.open(file) as chart:
        colours = {colour for _, colour in chart.convert("RGB").getcolors(1 << 24) or []}
    assert ablation_chart.EARNS in colours


def test_there_is_nothing_to_leave_out_of_the_reference(world: World) -> None:
    with pytest.raises(UserError, match="nothing to leave out"):
        ablate(Records(world.storage), "a", 0, runner=world)

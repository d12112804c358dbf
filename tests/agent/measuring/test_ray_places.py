"""Several places at once: real actors of a real Ray on this machine, whose processes are replayed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from paretune.agent.bundle import Verification
from paretune.agent.bundle.verify import Check
from paretune.agent.measuring import (
    Cluster,
    RayRunner,
    Verified,
    by_device,
    machine_drift,
    verify_everywhere,
)
from paretune.agent.measuring import ray_runner as runner_module
from paretune.agent.results import Results, headline
from paretune.agent.search import launch
from paretune.search_space import Configuration
from paretune.studies import Outcome, RunKind, Study, UserError
from support.ray_places import SCRIPT, ReplayedPlace, Script
from support.replaying import World

if TYPE_CHECKING:
    from support.launched import Cli

pytest.importorskip("ray")

CONFIGURATIONS = [
    Configuration.of({**({"channels_last": {}} if last else {}), **({"fused_qkv": {}} if fused else {}), **cached})
    for cached in (
        {},
        *({"deepcache": {"interval": i, "branch": b, "full_percent": 0}} for i in (2, 3) for b in (0, 1, 2)),
    )
    for last in (False, True)
    for fused in (False, True)
][1:24]
"""All but the reference."""
LATENCY_MS = {str(one): 1000.0 - 37 * index % 700 for index, one in enumerate(CONFIGURATIONS)}
SPEED = {"0": 1.0, "1": 1.2, "2": 0.9, "3": 1.05}


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Script]:
    file = tmp_path_factory.mktemp("script") / "script.json"
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", SCRIPT)}
    tests = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([tests, *filter(None, [before["PYTHONPATH"]])])
    os.environ[SCRIPT] = str(file)
    found = Script(file)
    found.write()
    yield found
    for name, value in before.items():
        if value is None:
            os.environ.pop(name)
        else:
            os.environ[name] = value


@pytest.fixture(scope="module")
def cluster(script: Script) -> Iterator[Cluster]:
    with Cluster(workers=4, device="cpu", actor=ReplayedPlace) as found:
        yield found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    monkeypatch.setattr(machine_drift, "PAUSES_S", (0.0, 0.0, 0.0))
    Path(os.environ[SCRIPT]).with_name("begun").write_text("")


def begun() -> list[dict[str, Any]]:
    """Every process that was begun at the places."""
    return [json.loads(line) for line in Path(os.environ[SCRIPT]).with_name("begun").read_text().splitlines()]


def a_study(world: World, **keys: Any) -> Study:
    presets = [[{step.technique: step.values()} for step in one.steps] for one in CONFIGURATIONS]
    space = {"techniques": {"channels_last": {}, "fused_qkv": {}, "deepcache": {}}, "presets": presets}
    usual = {"space": space, "budget": {"trials": 24}, "measurement": {"floor_processes": 2, "canary_every": 0}}
    return world.study("many", [], **{**usual, **keys})


def launch_at(cluster: Cluster, world: World, study: Study, **options: Any) -> Results:
    """At the places of Ray."""
    with closing(RayRunner(cluster, study, note=world.notes.append)) as runner:
        return launch(
            study,
            storage=world.storage,
            runner=runner,
            on_event=lambda event: world.notes.append(event.text) if event.kind == "note" else None,
            **options,
        )


@pytest.mark.parametrize("trials", [9, pytest.param(24, marks=pytest.mark.slow)])
def test_four_places_find_what_one_finds_though_they_are_not_equally_fast(
    cluster: Cluster, script: Script, tmp_path: Path, trials: int
) -> None:
    alone, together = World(tmp_path / "alone", LATENCY_MS), World(tmp_path / "together")
    for world in (alone, together):
        world.folder.mkdir()
    expected = alone.launch(a_study(alone), trials=trials)
    script.write(seconds=1.0, speed=SPEED, latency_ms=LATENCY_MS)
    found = launch_at(cluster, together, a_study(together), trials=trials)

    assert len(found.complete) == trials
    assert len({trial.configuration for trial in found.trials}) == trials
    measured = Counter(one["configuration"] for one in begun() if one["judge"])
    del measured[str(Configuration())]  # another process of it is judged for the noise floor
    assert set(measured.values()) == {1}
    assert len({trial.timing.worker for trial in found.trials}) > 2
    assert {str(t.configuration) for t in found.front} == {str(t.configuration) for t in expected.front}
    for trial in found.trials:
        same = expected.of(trial.configuration)
        assert same is not None
        assert trial.figure("latency_ms") == pytest.approx(same.figure("latency_ms"))
        assert (trial.folder / "log.txt").read_text().startswith(str(trial.configuration))
        assert (trial.folder / "run.py").is_file()
        assert len(trial.pictures()) == 3


def test_each_place_has_its_own_floor_and_says_what_working_side_by_side_costs(
    cluster: Cluster, script: Script, tmp_path: Path
) -> None:
    world = World(tmp_path)
    script.write(speed=SPEED, latency_ms=LATENCY_MS)
    found = launch_at(cluster, world, a_study(world), trials=4)
    middles = {place[-1]: floor.middle("latency_ms") for place, floor in found.floors.items()}
    assert middles == {place: pytest.approx(1000 * speed) for place, speed in SPEED.items()}
    assert found.disturbance is not None
    assert found.disturbance.places == 4
    assert found.disturbance.change == pytest.approx(0)


def test_where_the_machine_of_one_place_has_changed_its_trials_are_in_doubt_and_no_others(
    cluster: Cluster, script: Script, tmp_path: Path
) -> None:
    world = World(tmp_path)
    study = a_study(world, measurement={"floor_processes": 2, "canary_every": 20})
    script.write(seconds=0.5, latency_ms=LATENCY_MS)
    launch_at(cluster, world, study, trials=6)
    script.write(seconds=0.5, speed={"1": 1.8}, latency_ms=LATENCY_MS)
    found = launch_at(cluster, world, study, trials=7)
    (note,) = [text for text in world.notes if "in doubt" in text]
    assert "-1, the reference's latency has changed" in note
    own = [trial for trial in found.trials if not trial.is_reference]
    assert {trial.timing.worker[-1] for trial in own if trial.in_doubt} == {"1"}
    assert {trial.timing.worker[-1] for trial in own if not trial.in_doubt} >= {"0"}


def test_finalists_are_confirmed_at_two_places_with_the_others_idle(
    cluster: Cluster, script: Script, tmp_path: Path
) -> None:
    world = World(tmp_path)
    script.write(speed=SPEED, latency_ms=LATENCY_MS)
    study = a_study(world, finalists={"count": 1, "blocks": 3, "cold_starts": 0})
    found = launch_at(cluster, world, study, trials=5)
    blocks = found.runs(RunKind.BLOCK)
    places = list(dict.fromkeys(run.worker for run in blocks))
    assert [place[-1] for place in places] == ["0", "1"]
    assert [run.worker for run in blocks] == [place for place in places for _ in range(len(blocks) // 2)]
    assert "confirmed on 2 places" in headline(found)
    assert len(launch_at(cluster, world, study, trials=5).runs(RunKind.BLOCK)) == len(blocks)


def test_places_that_differ_are_refused_by_name_or_grouped(cluster: Cluster, script: Script, tmp_path: Path) -> None:
    script.write(driver={"3": "570.1"})
    with closing(RayRunner(cluster, a_study(World(tmp_path)))) as runner:
        with pytest.raises(UserError, match=r"-3 cannot take part in a study with .*-0, .*-1, .*-2 \(driver: .*570.1"):
            runner.refuse_unlike()
        groups = list(by_device(runner.fingerprints).values())
    assert [[place[-1] for place in group] for group in groups] == [["0", "1", "2"], ["3"]]


def kill_while_running(cluster: Cluster, how: Callable[[int], None], after: int) -> threading.Thread:
    """Do something to the process of the place that is running, once so many processes have begun."""
    import ray

    pids = {place.share.index: ray.get(place.actor.ping.remote()) for place in cluster.places}

    def act() -> None:
        while len(begun()) < after:
            time.sleep(0.02)
        how(pids[int(begun()[-1]["place"])])

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_a_killed_place_loses_nothing_and_comes_back(cluster: Cluster, script: Script, tmp_path: Path) -> None:
    world = World(tmp_path)
    script.write(seconds=0.3, latency_ms=LATENCY_MS)
    study = a_study(world)
    killer = kill_while_running(cluster, lambda pid: os.kill(pid, signal.SIGKILL), after=14)
    found = launch_at(cluster, world, study, trials=8)
    killer.join()
    assert [trial.outcome for trial in found.trials] == [Outcome.COMPLETE] * 8
    assert any("was lost and is back" in note for note in world.notes) or len(cluster.places) == 4
    stored = Counter(run.configuration_key for run in found.runs(RunKind.TRIAL))
    assert set(stored.values()) == {1}


@pytest.mark.slow
def test_a_place_that_hangs_is_replaced(
    cluster: Cluster, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "PING_S", 0.3)
    monkeypatch.setattr(runner_module, "HANGS_S", 2.0)
    world = World(tmp_path)
    script.write(seconds=0.3, latency_ms=LATENCY_MS)
    killer = kill_while_running(cluster, lambda pid: os.kill(pid, signal.SIGSTOP), after=13)
    found = launch_at(cluster, world, a_study(world), trials=7)
    killer.join()
    assert [trial.outcome for trial in found.trials] == [Outcome.COMPLETE] * 7


def test_what_no_place_can_run_is_tried_three_times_and_named_and_the_others_go_on(
    cluster: Cluster, script: Script, tmp_path: Path
) -> None:
    world = World(tmp_path)
    broken, large = (str(CONFIGURATIONS[index]) for index in (2, 5))
    script.write(latency_ms=LATENCY_MS, broken={broken: "ObjectStoreFullError: no room"}, no_memory=[large])
    found = launch_at(cluster, world, a_study(world), trials=8)
    tries = [one["place"] for one in begun() if one["configuration"] == broken]
    assert (len(tries), len(set(tries))) == (3, 3)
    (note,) = [note for note in world.notes if broken in note]
    assert "could not be run in 3 tries and is left out" in note
    assert "ObjectStoreFullError: no room" in note
    assert broken not in {str(trial.configuration) for trial in found.trials}
    outcomes = Counter(trial.outcome for trial in found.trials)
    assert outcomes == {Outcome.COMPLETE: 7, Outcome.OOM: 1}


def test_a_bundle_is_verified_at_every_place_with_a_line_each(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no bundle")
    said: list[str] = []
    found = verify_everywhere(cluster, tmp_path, models={}, on_place=lambda one: said.append(one.line()))
    assert [one.place for one in found] == sorted(place.name for place in cluster.places)
    assert len(said) == 4
    reason = "could not be verified: the bundle is not a bundle: it has no manifest.json"
    assert {line.partition(": ")[2] for line in said} == {reason}
    checks = (Check("files", True, "as exported"), Check("latency_ms", False, "900.0 ms now, 400.0 ms in the evidence"))
    assert Verified("box-gpu1", Verification(checks)).line() == (
        "box-gpu1: differs: latency_ms: 900.0 ms now, 400.0 ms in the evidence"
    )


def test_without_places_ray_is_not_imported_and_with_them_its_absence_is_one_sentence(
    cli: "Cli", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = (
        "import paretune.agent.cli, paretune.agent.places, paretune.agent.search, sys; sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", everything], check=False).returncode == 0
    monkeypatch.setitem(sys.modules, "ray", None)
    launched = ["launch", "quickstart", "--storage", f"sqlite:///{tmp_path / 'p.db'}"]
    assert cli(*launched, "--workers", "2").sentence() == "--workers and --ray need Ray: pip install 'paretune[ray]'"
    assert "say which with --ray" in cli(*launched, "--by-device").sentence()

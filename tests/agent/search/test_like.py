"""The front of a study of another machine is proposed first, with what is known of each technique here."""

from dataclasses import replace
from pathlib import Path

import pytest
from paretune.search_space import Configuration
from paretune.studies import UserError
from support.replaying import World, world_in


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return world_in(tmp_path, monkeypatch)


def test_the_other_studys_front_is_proposed_first_without_what_cannot_run_here(world: World) -> None:
    cached = {"deepcache": {"interval": 3, "branch": 0, "full_percent": 0}}
    fast = Configuration.of({"channels_last": {}, "fused_qkv": {}, **cached})
    preset = [[{step.technique: step.values()} for step in fast.steps]]
    techniques: dict[str, dict[str, object]] = {"channels_last": {}, "fused_qkv": {}, "deepcache": {}}
    world.latency_ms = {str(fast): 400.0}
    world.launch(world.study("h200", [], space={"techniques": techniques, "presets": preset}, budget={"trials": 2}))

    world.fingerprint = replace(world.fingerprint, device_name="Another CPU")
    del techniques["fused_qkv"]
    wanted = world.study("l40s", ["channels_last"], space={"techniques": techniques}, budget={"trials": 2})
    found = world.launch(wanted, like="h200")

    (note,) = [note for note in world.notes if note.startswith("like trial 1 of h200")]
    assert "channels_last: must be measured again" in note
    assert "fused_qkv: not runnable here (it is not in the study's space)" in note
    assert f"{Configuration.of(cached)}: transfers" in note
    assert found.trials[1].configuration == Configuration.of({"channels_last": {}, **cached})
    with pytest.raises(UserError, match="there is no study 'nothing'"):
        world.launch(wanted, like="nothing")


def test_on_the_same_device_everything_transfers(world: World) -> None:
    world.latency_ms = {"channels_last": 400.0}
    world.launch(world.study("first", ["channels_last"]))
    world.launch(world.study("second", ["channels_last"]), like="first")
    assert "like trial 1 of first: channels_last: transfers" in world.notes

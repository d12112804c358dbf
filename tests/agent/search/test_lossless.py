"""`lossless: true` keeps to what computes the same; naming no techniques keeps to what the device gains from."""

from pathlib import Path

import pytest
from paretune.search_space import Loss
from paretune.studies import Records, UserError
from support.replaying import World, world_in

TECHNIQUES = {"channels_last": {}, "fused_qkv": {}, "deepcache": {}, "guidance_cutoff": {}, "dtype": {}}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = world_in(tmp_path, monkeypatch)
    # What approximates would win.
    world.latency_ms = {"deepcache(interval=3, branch=0, full_percent=0)": 300.0, "channels_last": 900.0}
    return world


def test_a_lossless_study_tries_nothing_that_approximates(world: World) -> None:
    presets = [[{"deepcache": {}}], [{"channels_last": {}}], [{"channels_last": {}, "dtype": {}}]]
    space = {"techniques": TECHNIQUES, "presets": presets}
    results = world.launch(world.study("a", [], space=space, lossless=True, budget={"trials": 12}))
    tried = {str(trial.configuration): trial.configuration.loss for trial in results.trials}
    assert set(tried) == {"reference", "channels_last", "fused_qkv", "fused_qkv + channels_last"}, (
        "that is all there is"
    )
    assert set(tried.values()) <= {Loss.BIT_IDENTICAL, Loss.REORDERED}
    why = "the study is lossless, and this is approximate"
    assert f"preset deepcache(interval=3, branch=0, full_percent=0) is left out: {why}" in world.notes
    assert f"preset dtype(bfloat16) + channels_last is left out: {why}" in world.notes
    left_out = results.record.left_out
    assert {left_out[name] for name in ("deepcache", "guidance_cutoff", "dtype")} == {why}


def test_a_study_that_may_lose_tries_more(world: World) -> None:
    results = world.launch(world.study("a", ["deepcache"], budget={"trials": 2}))
    assert Loss.APPROXIMATE in {trial.configuration.loss for trial in results.trials}
    with pytest.raises(UserError, match="another search space"):
        world.launch(world.study("a", ["deepcache"], budget={"trials": 3}, lossless=True))


def test_a_study_that_names_no_techniques_searches_what_its_device_gains_from(world: World) -> None:
    world.launch(world.study("a", [], space={}, budget={"trials": 1}))
    record = Records(world.storage).study("a")
    assert {"channels_last", "deepcache", "torch_compile"} <= set(record.space)
    assert not {"cuda_graphs", "scheduler", "model_offload"} & set(record.space)
    assert record.space["torch_compile"]["fullgraph"] == [False]
    assert record.left_out["cuda_graphs"] == "CUDA graphs need a CUDA device"

"""A configuration that does the same as a measured one is not measured: the sampler is told, and the user."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from support import replaying


def test_configurations_that_do_the_same_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(replaying.PIPELINES["main"], "steps", [4])
    world = replaying.world_in(tmp_path, monkeypatch)
    presets = [[{"deepcache": {"interval": interval}}] for interval in (4, 5)]
    space = {"techniques": {"deepcache": {"branch": [0], "full_percent": [0]}}, "presets": presets}
    results = world.launch(world.study("same", [], space=space, budget={"trials": 10}))

    measured = [configuration for kind, configuration in world.ran if kind == "trial"]
    four = "deepcache(interval=4, branch=0, full_percent=0)"
    assert sorted(measured) == sorted(["reference", four, four.replace("4", "2"), four.replace("4", "3")]), (
        "with 4 steps, interval 5 is interval 4"
    )
    assert f"{four.replace('4', '5')} is the same as trial 1, {four}: with these requests" in "\n".join(world.notes)
    assert len(results.trials) == 4

    told = optuna.load_study(study_name="same", storage=world.storage).get_trials(deepcopy=False)
    (one,) = [
        trial
        for trial in told
        if trial.params.get("deepcache.interval") == 4
        and "the same as" not in trial.user_attrs
        and trial.state is TrialState.COMPLETE
    ]
    same = [trial for trial in told if "the same as" in trial.user_attrs]
    assert same
    assert all(trial.state is TrialState.COMPLETE and trial.values == one.values for trial in same)
    assert all(trial.params["deepcache.interval"] == 5 for trial in same)

"""The torch.compile that every report compares with: when it is measured."""

from pathlib import Path
from typing import Any

import pytest
from paretune.agent.results import TORCH_COMPILE
from support.replaying import world_in

BASELINE: dict[str, Any] = {step.technique: step.values() for step in TORCH_COMPILE.steps}
CHANNELS_LAST: dict[str, Any] = {"channels_last": {}}


@pytest.mark.parametrize(
    ("presets", "place"),
    [([CHANNELS_LAST], 2), ([BASELINE, CHANNELS_LAST], 1)],
    ids=["after them", "where presets have it"],
)
def test_it_comes_after_what_takes_seconds_unless_the_presets_give_it_a_place(
    presets: list[dict[str, Any]], place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_in(tmp_path, monkeypatch)
    world.latency_ms = {"channels_last": 800.0, str(TORCH_COMPILE): 700.0}
    space = {"techniques": {"channels_last": {}, "torch_compile": {}}, "presets": [[preset] for preset in presets]}
    study = world.study("a", [], space=space, torch_compile_baseline=True, budget={"trials": 3})
    results = world.launch(study)
    assert [str(trial.configuration) for trial in results.trials].index(str(TORCH_COMPILE)) == place

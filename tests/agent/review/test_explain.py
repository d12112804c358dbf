"""`paretune explain`: a configuration step by step."""

import json
from pathlib import Path

from paretune.agent.review import explain
from paretune.search_space import Configuration
from paretune.testing import TINY_FACTS
from support.launched import Cli, Launched

CACHED = Configuration.of({"deepcache": {"interval": 2, "branch": 0}, "channels_last": {}, "vae_slicing": {}})


def test_each_step_says_where_when_and_why() -> None:
    layout, cached, sliced = explain(CACHED, {"main": TINY_FACTS})
    assert [step.technique for step in (layout, cached, sliced)] == ["channels_last", "deepcache", "vae_slicing"]
    assert set(layout.modules) == {"main.unet", "main.vae"}
    assert cached.modules == {"main.unet": "UNet2DConditionModel"}
    assert cached.parameters["interval"] == 2
    assert cached.loss == "approximate"
    assert "def deepcache(" in cached.code
    assert cached.source.startswith("https://")
    assert "compil" in cached.when


def test_of_a_file_without_a_study(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "configuration.yaml"
    file.write_text(CACHED.to_yaml())
    said = cli("explain", str(file))
    assert "1. channels_last()" in said.out
    assert "def channels_last(pipelines" in said.out
    assert cli("explain", str(file), "--no-code").out.count("def ") == 0


def test_of_a_trial(launched: Launched, cli: Cli) -> None:
    trial = next(trial for trial in launched.results().complete if not trial.is_reference)
    said = cli("explain", f"tiny:{trial.number}", "--json", "--storage", launched.storage)
    steps = json.loads(said.out)
    assert [step["technique"] for step in steps] == [step.technique for step in trial.configuration.steps]
    assert all("main." in name for step in steps for name in step["modules"])


def test_what_is_neither(cli: Cli) -> None:
    said = cli("explain", "nothing")
    assert "neither a file nor STUDY:TRIAL" in said.sentence()

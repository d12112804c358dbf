"""`paretune explain`: a configuration step by step."""

import json
from dataclasses import replace
from pathlib import Path

from paretune.agent.review import explain
from paretune.search_space import Configuration, ModuleFacts, PipelineFacts, Role
from paretune.testing import TINY_FACTS
from support.launched import Cli, Launched

UPSCALER = ModuleFacts(class_name="Upscaler", role=Role.OTHER, dtype="float32", parameters_m=1.0)
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


def test_what_a_step_acts_on_depends_on_its_parameters() -> None:
    upscaler = PipelineFacts.from_dict({**TINY_FACTS.to_dict(), "beside": True})
    facts = {"main": TINY_FACTS, "upscaler": replace(upscaler, modules={"": UPSCALER})}
    for modules, expected in (
        ("denoiser", {"main.unet"}),
        ("denoiser_vae", {"main.unet", "main.vae"}),
        ("denoiser_vae_text", {"main.unet", "main.vae", "main.text_encoder", "main.text_encoder_2"}),
    ):
        (step,) = explain(Configuration.of({"cuda_graphs": {"modules": modules}}), facts)
        assert set(step.modules) == expected
    for beside in ("torch_compile_modules", "module_dtype", "cuda_graphs_modules"):
        (step,) = explain(Configuration.of({beside: {}}), facts)
        assert step.modules == {"upscaler": "Upscaler"}
        (alone,) = explain(Configuration.of({beside: {}}), {})
        assert alone.roles == ("module beside the pipelines",)
    (converted,) = explain(Configuration.of({"dtype": {"dtype": "bfloat16"}}), facts)
    assert "upscaler" not in converted.modules, "it leaves modules beside the pipelines alone"
    assert "module beside the pipelines" not in converted.roles


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

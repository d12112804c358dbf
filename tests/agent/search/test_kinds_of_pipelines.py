"""SD 1.5 from picture to picture, inpainting and a ControlNet, by YAML alone: from launch to a bundle that verifies."""

from pathlib import Path
from typing import Any

import pytest
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from paretune.agent.bundle import export, verify
from paretune.agent.search import launch
from paretune.agent.trial import write_trial_folder
from paretune.objectives.measuring import Phases, Plan, measure_configuration
from paretune.search_space import Configuration, apply_source
from paretune.studies import Study, read_study
from paretune.testing import tiny_sd, tiny_sdxl, with_controlnet
from PIL import Image, ImageDraw
from support.launching import tiny_study, write_study

KINDS: dict[str, Any] = {
    "image-to-image": lambda: StableDiffusionImg2ImgPipeline(**_sd()),
    "inpainting": lambda: StableDiffusionInpaintPipeline(**_sd()),
    "controlnet": lambda: with_controlnet(tiny_sdxl()),
}
ARGUMENTS = {"image-to-image": {"strength": 0.8}, "controlnet": {"controlnet_conditioning_scale": 0.7}}


def _sd() -> dict[str, Any]:
    return {**tiny_sd().components, "requires_safety_checker": False}


def write_pictures(folder: Path) -> None:
    """What requests begin with: a drawing, and the part of it that is painted anew."""
    for name, mode, shape in (("drawing", "RGB", (8, 8, 40, 56)), ("mask", "L", (0, 0, 32, 64))):
        picture = Image.new(mode, (64, 64), "black" if mode == "L" else "teal")
        ImageDraw.Draw(picture).ellipse(shape, fill="white" if mode == "L" else "gold")
        picture.save(folder / f"{name}.png")


def study_of(kind: str, folder: Path) -> Study:
    """A study file of that kind, with its model, in a folder."""
    pipeline = KINDS[kind]()
    pipeline.save_pretrained(folder / "model")
    write_pictures(folder)
    request = {"name": "cat", "prompt": "a cat", "width_px": 64, "height_px": 64, "steps": 4, "guidance": 4.0}
    begins = {"image": "drawing.png", "arguments": ARGUMENTS.get(kind, {})}
    begins |= {"mask_image": "mask.png"} if kind == "inpainting" else {}
    main = {"class": type(pipeline).__name__, "model": "model", "dtype": "float32"}
    presets = [[{"channels_last": {}}], [{"vae_slicing": {}}], [{"fused_qkv": {}}]]
    content = tiny_study(
        folder / "model",
        name=kind,
        workload={"pipelines": {"main": main}, "requests": [{**request, **begins}]},
        space={"techniques": {"channels_last": {}, "vae_slicing": {}, "fused_qkv": {}}, "presets": presets},
        quality={"pictures": {"screen": 2, "front": 2, "finalists": 2}, "reordering_floor": False},
    )
    return read_study(str(write_study(folder / "study.yaml", content)))


def test_a_controlnet_is_measured_as_its_study_file_has_it(tmp_path: Path) -> None:
    """What a trial's process does, in this one."""
    study, configuration = study_of("controlnet", tmp_path), Configuration.of({"fused_qkv": {}})
    trial = tmp_path / "trial"
    write_trial_folder(trial, configuration.to_dict(), study.workload_description(), apply_source(configuration))
    plan = Plan(calls=1, most_calls=1, warm_up_calls=1, memory=False, pictures=("cat", "cat~1"))
    measurements, made = measure_configuration(trial, "cpu", plan=plan, phases=Phases(lambda name: None))
    (visit,) = measurements["visits"]["cat"]
    assert (visit["entry"], visit["steps"], visit["guided"]) == ("main", 4, True)
    assert set(made.pictures) == {"cat", "cat~1"}
    assert {"denoising", "text_encoding", "vae_decode"} <= set(measurements["stages"][0]["stages"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_four_trials_and_a_bundle_that_verifies(kind: str, tmp_path: Path) -> None:
    study = study_of(kind, tmp_path)
    results = launch(study, storage=f"sqlite:///{tmp_path}/paretune.db", trials=4)
    assert len(results.complete) == 4, [trial.reason for trial in results.failures]
    (visit,) = results.reference.measurements["visits"]["cat"]
    assert (visit["entry"], visit["width_px"], visit["guided"]) == ("main", 64, True)
    chosen = results.of(Configuration.of({"channels_last": {}}))
    assert chosen is not None
    bundle = export(results, chosen, tmp_path / "bundle", unconfirmed=True)
    checks = {check.name: check for check in verify(bundle).checks}
    # Its time is the machine's affair.
    assert all(check.passed for name, check in checks.items() if name != "latency_ms"), checks

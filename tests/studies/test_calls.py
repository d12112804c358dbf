"""What requests pass to their pipelines: nothing is passed that would be ignored, nothing left out that is needed."""

import copy
from pathlib import Path
from typing import Any

import diffusers
import pytest
from paretune.studies import Study, UserError, check_calls, parse_study, pipeline_interface
from PIL import Image
from support.launched import Cli
from support.launching import tiny_study, write_study

CLASSES = (
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionPipeline",
    "FluxPipeline",
    "Flux2Pipeline",
    "StableCascadeCombinedPipeline",
)
INTERFACES = {name: pipeline_interface(getattr(diffusers, name)) for name in CLASSES}
XL, IMG2IMG, INPAINT = CLASSES[:3]
PICTURE, MASK = {"image": "face.png"}, {"mask_image": "mask.png"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "face.png")
    Image.new("L", (16, 16), 255).save(tmp_path / "mask.png")
    return tmp_path


def study(folder: Path, class_name: str, request: dict[str, Any], **pipeline: Any) -> Study:
    content = copy.deepcopy(tiny_study(Path("someone/model")))
    content["workload"]["pipelines"]["main"] |= {"class": class_name, **pipeline}
    content["workload"]["requests"] = [content["workload"]["requests"][0] | request]
    return parse_study(content, "study.yaml", folder)


@pytest.mark.parametrize(
    ("class_name", "request_", "pipeline"),
    [
        (XL, {}, {}),
        (XL, {"arguments": {"guidance_rescale": 0.5, "clip_skip": 1}}, {}),
        (XL, {"negative_prompt": ""}, {"share": {}, "without": ["feature_extractor"]}),
        (IMG2IMG, {**PICTURE, "arguments": {"strength": 0.3}}, {}),
        (INPAINT, {**PICTURE, **MASK, "arguments": {"strength": 0.9}}, {}),
        ("StableDiffusionPipeline", {}, {"without": ["safety_checker", "feature_extractor"]}),
        ("FluxPipeline", {"arguments": {"max_sequence_length": 256}}, {}),
        ("Flux2Pipeline", {}, {}),
        ("Flux2Pipeline", PICTURE, {}),
    ],
)
def test_what_a_pipeline_takes_is_passed(
    folder: Path, class_name: str, request_: dict[str, Any], pipeline: dict[str, Any]
) -> None:
    check_calls(study(folder, class_name, request_, **pipeline).workload_description(), INTERFACES)


@pytest.mark.parametrize(
    ("class_name", "request_", "pipeline", "sentence"),
    [
        (IMG2IMG, {**PICTURE, "arguments": {"strenght": 0.3}}, {}, "no argument 'strenght' (did you mean 'strength'?)"),
        (XL, {"arguments": {"strength": 0.3}}, {}, f"request cat: {XL} takes no argument 'strength'"),
        (XL, {"arguments": {"kwargs": 1}}, {}, "takes no argument 'kwargs'"),
        (XL, {"arguments": {"self": 1}}, {}, "takes no argument 'self'"),
        (
            XL,
            {"arguments": {"latents": 1}},
            {},
            "request cat: latents is nothing that a study file can hold: write a wo",
        ),
        (XL, {"arguments": {"prompt_embeds": [1.0]}}, {}, "prompt_embeds is nothing that a study file can hold"),
        (XL, {"arguments": {"callback_on_step_end": "print"}}, {}, "callback_on_step_end is nothing that a study file"),
        (XL, PICTURE, {}, "takes no image, which the request's image is for: write a workload in Python"),
        (IMG2IMG, {}, {}, "begins with a picture: set the request's image to a file"),
        (IMG2IMG, {**PICTURE, **MASK}, {}, "takes no mask_image"),
        (INPAINT, PICTURE, {}, "needs a mask: set the request's mask_image to a file"),
        ("StableCascadeCombinedPipeline", {}, {}, "takes no guidance_scale, which the request's guidance is for"),
        ("Flux2Pipeline", {"negative_prompt": "blurry"}, {}, "takes no negative_prompt"),
        (XL, {}, {"without": ["safety_checker"]}, "no component 'safety_checker': it has vae, text_encoder"),
        (XL, {}, {"without": ["vea"]}, "no component 'vea' (did you mean 'vae'?)"),
    ],
)
def test_what_a_pipeline_does_not_take_is_one_sentence(
    folder: Path, class_name: str, request_: dict[str, Any], pipeline: dict[str, Any], sentence: str
) -> None:
    described = study(folder, class_name, request_, **pipeline).workload_description()
    with pytest.raises(UserError) as refused:
        check_calls(described, INTERFACES)
    assert sentence in str(refused.value)


def test_a_workload_in_python_gets_what_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def load(device): ...\ndef run(pipelines, request): ...\n")
    content = tiny_study(Path("someone/model"))
    requests = [content["workload"]["requests"][0] | {"arguments": {"strenght": 1, "prompt": "mine"}}]
    content["workload"] = {"python": "own.py", "requests": requests}
    check_calls(parse_study(content, "study.yaml", tmp_path).workload_description(), {})


@pytest.mark.parametrize("name", ["UNet2DConditionModel", "DDIMScheduler", "logging", "load_image"])
def test_what_is_no_pipeline_is_none(name: str) -> None:
    with pytest.raises(ValueError, match="it is not a pipeline"):
        pipeline_interface(diffusers.utils.load_image if name == "load_image" else getattr(diffusers, name))


@pytest.mark.parametrize("name", ["DiffusionPipeline", "AutoPipelineForText2Image"])
def test_what_stands_for_many_pipelines_takes_nobody_knows_what(name: str) -> None:
    with pytest.raises(ValueError, match=r"write the _class_name of the model's model_index\.json"):
        pipeline_interface(getattr(diffusers, name))


def test_a_misspelt_argument_ends_a_launch_before_anything_is_measured(
    tiny_model: Path, tmp_path: Path, cli: Cli
) -> None:
    content = tiny_study(tiny_model)
    content["workload"]["requests"][1]["arguments"] = {"guidance_rescaled": 0.5}
    file, storage = write_study(tmp_path / "tiny.yaml", content), f"sqlite:///{tmp_path}/paretune.db"
    sentence = cli("launch", str(file), "--storage", storage).sentence()
    assert sentence == (
        "request dog: StableDiffusionXLPipeline takes no argument 'guidance_rescaled' "
        "(did you mean 'guidance_rescale'?); it would be ignored"
    )
    assert not list(tmp_path.glob("paretune.files/tiny/*"))

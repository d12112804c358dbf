"""Workloads: pipelines that share modules, random weights, and a product's own Python file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from paretune.objectives.measuring.contract import checked_pictures
from paretune.studies import Workload, parse_study
from paretune.testing import picture, tiny_sdxl
from support.launching import tiny_study

PRODUCT = '''
"""A product's own loading and serving, beside which lies a module of its own."""
from neighbour import MODEL
from diffusers import StableDiffusionXLPipeline

def load(device):
    pipeline = StableDiffusionXLPipeline.from_pretrained(MODEL).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return {"main": pipeline}

def run(pipelines, request):
    import torch
    generator = torch.Generator("cpu").manual_seed(request.seed)
    return pipelines["main"](
        request.prompt, width=request.width_px, height=request.height_px, num_inference_steps=request.steps,
        guidance_scale=request.guidance, generator=[generator], output_type=request.arguments.get("as", "pt"),
    ).images
'''


def straight_from(model: Path) -> Any:
    """The pipeline as diffusers itself loads it."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def workload(content: dict[str, Any], folder: Path) -> Workload:
    return Workload(parse_study(content, "study.yaml", folder).workload_description())


def test_pictures_are_those_of_the_pipeline_itself_with_the_requests_seeds(tiny_model: Path, tmp_path: Path) -> None:
    loaded = workload(tiny_study(tiny_model), tmp_path)
    pipelines = loaded.load("cpu")
    cat, dog = (loaded.run(pipelines, request) for request in loaded.requests)
    assert cat.shape == (1, 3, 64, 64)
    assert torch.equal(cat, picture(straight_from(tiny_model), "a cat", batch=1, seed=1, steps=5, guidance=4.0))
    assert torch.allclose(
        dog, picture(straight_from(tiny_model), "a dog", batch=2, seed=2, steps=5, guidance=4.0), atol=1e-4
    )
    assert (cat.min() >= 0, cat.max() <= 1) == (True, True)


def test_shared_modules_are_one_object_in_several_pipelines(tiny_model: Path, tmp_path: Path) -> None:
    content = tiny_study(tiny_model)
    first = content["workload"]["pipelines"]["main"]
    shared = ("unet", "vae", "text_encoder", "text_encoder_2")
    content["workload"]["pipelines"]["painter"] = {
        **first,
        "class": "StableDiffusionXLImg2ImgPipeline",
        "share": dict.fromkeys(shared, "main"),
    }
    pipelines = workload(content, tmp_path).load("cpu")
    assert type(pipelines["painter"]).__name__ == "StableDiffusionXLImg2ImgPipeline"
    for name in shared:
        assert getattr(pipelines["painter"], name) is getattr(pipelines["main"], name)
    assert pipelines["painter"].scheduler is not pipelines["main"].scheduler


@pytest.fixture
def product(tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "neighbour.py").write_text(f"MODEL = {str(tiny_model)!r}\n")
    (tmp_path / "product.py").write_text(PRODUCT)
    content = tiny_study(tiny_model)
    requests = content["workload"]["requests"][:1]
    return {**content, "workload": {"python": "product.py", "requests": requests}}


def test_a_products_own_file_loads_and_serves(product: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    own = workload(product, tmp_path)
    pipelines = own.load("cpu")
    (request,) = own.requests
    assert torch.equal(
        own.run(pipelines, request), picture(straight_from(tiny_model), "a cat", batch=1, seed=1, steps=5, guidance=4.0)
    )


def test_pictures_of_pillow_are_handed_on_as_they_are(
    product: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    product["workload"]["requests"][0]["arguments"] = {"as": "pil"}
    own = workload(product, tmp_path)
    (image,) = own.run(own.load("cpu"), own.requests[0])
    images = checked_pictures([image], own.requests[0])
    expected = picture(straight_from(tiny_model), "a cat", batch=1, seed=1, steps=5, guidance=4.0)
    assert images.shape == expected.shape
    assert (images - expected).abs().max() <= 0.5 / 255 + 1e-6


def random_study(tiny_model: Path) -> dict[str, Any]:
    """The tiny pipeline's configuration, with random weights."""
    content = tiny_study(tiny_model)
    content["workload"]["pipelines"]["main"].update(weights="random", config=str(tiny_model), model="no/where")
    return content


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_random_weights_make_the_whole_pipeline_from_its_configuration(
    tiny_model: Path, tmp_path: Path, dtype: str
) -> None:
    content = random_study(tiny_model)
    content["workload"]["pipelines"]["main"]["dtype"] = dtype
    loaded = workload(content, tmp_path)
    pipeline = loaded.load("cpu")["main"]
    original = tiny_sdxl()
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        made, given = getattr(pipeline, name), getattr(original, name)
        shapes = {key: value.shape for key, value in made.state_dict().items()}
        assert shapes == {key: value.shape for key, value in given.state_dict().items()}
        assert {parameter.dtype for parameter in made.parameters()} == {getattr(torch, dtype)}
        assert not made.training
    assert torch.get_default_dtype() is torch.float32


def test_the_same_random_weights_every_time(tiny_model: Path, tmp_path: Path) -> None:
    first, second = (workload(random_study(tiny_model), tmp_path).load("cpu")["main"].unet for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_requests_of_one_shape_are_timed_together(tiny_model: Path, tmp_path: Path) -> None:
    content = tiny_study(tiny_model)
    cat, dog = content["workload"]["requests"]
    content["workload"]["requests"] = [
        cat,
        {**cat, "name": "other-words", "prompt": "a sea", "seed": 9},
        {**cat, "name": "more-steps", "steps": 9},
        {**cat, "name": "unguided", "guidance": 1.0},
        {**cat, "name": "argued", "arguments": {"guidance_rescale": 0.5}},
        dog,
    ]
    shapes = [request.shape() for request in workload(content, tmp_path).requests]
    assert shapes[0] == shapes[1]
    assert len(set(shapes)) == 5


def test_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "workload.json").write_text(json.dumps({"schema": 7, "requests": []}))
    with pytest.raises(ValueError, match="workload schema 7 is not 1"):
        Workload.read(tmp_path)

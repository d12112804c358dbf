"""Pictures that requests begin with: scaled and passed as they would be by hand, and taken along wherever it is run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline
from paretune.agent.trial import portable_workload, write_scripts
from paretune.studies import Study, Workload, parse_study, workload_key
from PIL import Image
from support.launching import tiny_study

STRENGTH = {"strength": 0.8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of other sizes than the requests."""
    noise = torch.randint(0, 256, (48, 80, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(tmp_path / "face.PNG")
    mask = Image.new("L", (48, 80), 0)
    mask.paste(255, (0, 0, 24, 80))
    mask.save(tmp_path / "mask.png")
    return tmp_path


def study(folder: Path, model: Path, class_name: str, **request: Any) -> Study:
    content = tiny_study(model)
    content["workload"]["pipelines"]["main"]["class"] = class_name
    content["workload"]["requests"] = [
        one | {"arguments": STRENGTH, **request} for one in content["workload"]["requests"]
    ]
    return parse_study(content, "study.yaml", folder)


def by_hand(pipeline: Any, prompt: str, seeds: list[int], **also: Any) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    made: torch.Tensor = pipeline(
        prompt=[prompt] * len(seeds),
        num_inference_steps=5,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt",
        **STRENGTH,
        **also,
    ).images
    return made


def test_image_to_image_and_inpainting_are_what_diffusers_makes(tiny_model: Path, folder: Path) -> None:
    plain = StableDiffusionXLPipeline.from_pretrained(tiny_model)
    face = Image.open(folder / "face.PNG").convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)
    mask = Image.open(folder / "mask.png").resize((64, 64), Image.Resampling.NEAREST)

    loaded = Workload(
        study(folder, tiny_model, "StableDiffusionXLImg2ImgPipeline", image="face.PNG").workload_description()
    )
    pipelines = loaded.load("cpu")
    hand = StableDiffusionXLImg2ImgPipeline(**plain.components)
    for request, seeds in zip(loaded.requests, ([1], [2, 3]), strict=True):
        made = loaded.run(pipelines, request)
        assert made.shape == (len(seeds), 3, 64, 64)
        assert torch.allclose(made, by_hand(hand, request.prompt, seeds, image=[face] * len(seeds)), atol=1e-4)

    pictures = {"image": "face.PNG", "mask_image": "mask.png"}
    loaded = Workload(study(folder, tiny_model, "StableDiffusionXLInpaintPipeline", **pictures).workload_description())
    made = loaded.run(loaded.load("cpu"), loaded.requests[0])
    hand = StableDiffusionXLInpaintPipeline(**plain.components)
    expected = by_hand(hand, "a cat", [1], image=[face], mask_image=[mask], width=64, height=64)
    assert torch.allclose(made, expected, atol=1e-4)


def test_a_folder_that_runs_it_has_the_pictures_and_can_be_moved(
    tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    described = study(folder, tiny_model, "StableDiffusionXLImg2ImgPipeline", image="face.PNG").workload_description()
    here = Workload(described)
    pipelines = here.load("cpu")
    expected = here.run(pipelines, here.requests[0])
    write_scripts(tmp_path / "check", described)
    (folder / "face.PNG").unlink()
    moved = Path(shutil.move(tmp_path / "check", tmp_path / "elsewhere"))
    written = json.loads((moved / "workload.json").read_text())
    (name,) = {request["image"] for request in written["requests"]}
    assert not Path(name).is_absolute()
    assert [file.name for file in (moved / "inputs").iterdir()] == [Path(name).name]
    there = Workload.read(moved)
    assert torch.equal(there.run(pipelines, there.requests[0]), expected)


def test_another_picture_is_another_workload_and_another_name_is_not(tiny_model: Path, folder: Path) -> None:
    def of() -> Study:
        return study(folder, tiny_model, "StableDiffusionXLImg2ImgPipeline", image="face.PNG")

    before, portable = workload_key(of()), portable_workload(of().workload_description())[0]
    assert workload_key(of()) == before
    shutil.copy(folder / "face.PNG", folder / "copy.PNG")
    renamed = study(folder, tiny_model, "StableDiffusionXLImg2ImgPipeline", image="copy.PNG").workload_description()
    assert portable_workload(renamed)[0] == portable
    Image.new("RGB", (80, 48)).save(folder / "face.PNG")
    assert workload_key(of()) != before


def test_a_study_without_pictures_is_described_as_it_always_was(tiny_model: Path, folder: Path) -> None:
    described = parse_study(tiny_study(tiny_model), "study.yaml", folder).workload_description()
    assert not {"image", "mask_image"} & set(described["requests"][0])
    assert "without" not in described["pipelines"]["main"]


def test_a_component_that_is_left_out_is_not_loaded(tiny_model: Path, folder: Path) -> None:
    content = tiny_study(tiny_model)
    content["workload"]["pipelines"]["main"]["without"] = ["text_encoder_2", "tokenizer_2"]
    pipeline = Workload(parse_study(content, "study.yaml", folder).workload_description()).load("cpu")["main"]
    assert pipeline.text_encoder_2 is None
    assert pipeline.tokenizer_2 is None
    assert pipeline.text_encoder is not None

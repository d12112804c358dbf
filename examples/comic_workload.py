"""A workload of one's own: two pipelines that share a U-Net, as a product with a character and a refinement stage has.

A study names this file (`workload: {python: comic_workload.py, ...}`); see comic_study.yaml. paretune calls load() once
in each trial process and run() for every request, and asks nothing else of the file.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

MODEL = Path(__file__).parent.parent / "studies" / "quickstart" / "model"


def load(device: str) -> dict[str, Any]:
    """The pipelines by name. A module that several of them use is the same object, so a technique changes it once."""
    character = StableDiffusionXLPipeline.from_pretrained(MODEL, dtype=torch.float32).to(device)
    refiner = StableDiffusionXLImg2ImgPipeline(**character.components)
    for pipeline in (character, refiner):
        pipeline.set_progress_bar_config(disable=True)
    return {"character": character, "refiner": refiner}


def run(pipelines: dict[str, Any], request: Any) -> torch.Tensor:
    """One request as production serves it. Returns pictures (B, 3, H, W) in [0, 1].

    The seed comes with the request and is used on the CPU, so that the same request gives the same picture.
    """

    def generators(offset: int) -> list[torch.Generator]:
        return [torch.Generator("cpu").manual_seed(request.seed + offset + i) for i in range(request.batch)]

    prompts = [request.prompt] * request.batch
    drafts = pipelines["character"](
        prompt=prompts,
        width=request.width_px,
        height=request.height_px,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        generator=generators(0),
        output_type="pt",
    ).images
    return pipelines["refiner"](
        prompt=prompts,
        image=drafts,
        strength=request.arguments.get("strength", 0.3),
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        generator=generators(1000),
        output_type="pt",
    ).images

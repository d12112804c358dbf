"""Does the model draw what the prompt asks for? Measured on pixels: hair colour, background colour, glasses or none.

    python -m benchmarks.quickstart_model.check_prompts [--model FOLDER] [--device cuda] [--json FILE] [--sheet PNG]

The detectors know where the generator of the training data puts things, and are first tried on drawn faces, where the
truth is known. Exits with 1 when the detectors or the model fall short.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from numpy.typing import NDArray
from PIL import Image

from .captions import caption
from .drawing import draw
from .faces import BACKGROUND_COLOURS, HAIR_COLOURS, OUTLINE, SKIN_COLOURS, Colour, Face, random_face

MODEL = Path(__file__).parents[2] / "studies" / "quickstart" / "model"
FIRST_UNSEEN_SEED = 10_000_000  # far from the seeds that the model was trained on
DETECTORS_AT_LEAST = 0.98
MODEL_AT_LEAST = 0.90

Pixels = NDArray[np.float32]  # (height, width, 3), 0 to 255


def _mixed(colour: Colour, other: Colour, share: float) -> tuple[float, ...]:
    return tuple(a + (b - a) * share for a, b in zip(colour, other, strict=True))


# Every flat colour that can be seen around the head, and which hair colour it votes for ("" for none).
_VOTES: list[tuple[str, tuple[float, ...]]] = [
    *((name, tuple(map(float, colour))) for name, colour in HAIR_COLOURS.items()),
    *((name, _mixed(colour, (40, 20, 60), 0.22)) for name, colour in HAIR_COLOURS.items() if name != "black"),
    *(("", tuple(map(float, colour))) for colour in SKIN_COLOURS.values()),
    *(("", tuple(map(float, colour))) for colour in BACKGROUND_COLOURS.values()),
    *(("", _mixed(colour, (255, 255, 255), 0.28)) for colour in BACKGROUND_COLOURS.values()),
    ("outline", tuple(map(float, OUTLINE))),
]


def _nearest(pixels: Pixels, palette: Sequence[tuple[float, ...]]) -> NDArray[np.intp]:
    """Index of the nearest colour for each of the pixels (N, 3)."""
    distance = ((pixels[:, None] - np.asarray(palette, dtype=np.float32)[None]) ** 2).sum(-1)
    nearest: NDArray[np.intp] = distance.argmin(-1)
    return nearest


def background_colour(pixels: Pixels) -> str:
    """The background's name, from the upper corners."""
    corners = np.concatenate([pixels[2:26, 2:20].reshape(-1, 3), pixels[2:26, -20:-2].reshape(-1, 3)])
    names = list(BACKGROUND_COLOURS)
    palette = [tuple(map(float, BACKGROUND_COLOURS[name])) for name in names]
    lighter = [_mixed(BACKGROUND_COLOURS[name], (255, 255, 255), 0.28) for name in names]
    votes = np.bincount(_nearest(corners, [*palette, *lighter]) % len(names), minlength=len(names))
    return names[int(votes.argmax())]


def hair_colour(pixels: Pixels) -> str:
    """The hair's name, from the temples, where every style shows and no hat covers it."""
    temples = np.concatenate([pixels[50:64, 31:39].reshape(-1, 3), pixels[50:64, 89:97].reshape(-1, 3)])
    votes = dict.fromkeys(HAIR_COLOURS, 0.0)
    for index in _nearest(temples, [colour for _, colour in _VOTES]):
        name = _VOTES[index][0]
        if name == "outline":
            votes["black"] += 0.35  # black hair is nearly as dark as outlines
        elif name:
            votes[name] += 1
    return max(votes, key=lambda name: votes[name])


def has_glasses(pixels: Pixels) -> bool:
    """Whether a dark bridge joins the two eyes."""
    between = pixels[59:71, 61:68] @ np.asarray([0.299, 0.587, 0.114], dtype=np.float32)
    return int((between.min(axis=0) < 72).sum()) >= 5


def right(image: Image.Image, face: Face) -> dict[str, bool]:
    """Which of the three attributes the picture shows as the face has them."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return {
        "hair colour": hair_colour(pixels) == face.hair_colour,
        "background": background_colour(pixels) == face.background,
        "glasses": has_glasses(pixels) == bool(face.glasses),
    }


def share_right(images: Sequence[Image.Image], faces: Sequence[Face]) -> dict[str, float]:
    """For each attribute, the share of pictures that show it as asked."""
    results = [right(image, face) for image, face in zip(images, faces, strict=True)]
    return {name: sum(result[name] for result in results) / len(results) for name in results[0]}


def prompts_for(count: int) -> tuple[list[Face], list[str]]:
    """Faces that the model has never seen, and a sentence about each that leaves nothing out."""
    faces = [random_face(FIRST_UNSEEN_SEED + i) for i in range(count)]
    return faces, [caption(face, random.Random(face.seed), left_out=0.0) for face in faces]


def drawn_by(
    pipeline: StableDiffusionXLPipeline, prompts: Sequence[str], steps: int, guidance: float, batch: int = 20
) -> list[Image.Image]:
    """One picture for each prompt, with the prompt's number as seed."""
    images: list[Image.Image] = []
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        seeds = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
        images += pipeline(part, num_inference_steps=steps, guidance_scale=guidance, generator=seeds).images
    return images


def contact_sheet(images: Sequence[Image.Image], columns: int = 10) -> Image.Image:
    """All pictures in one."""
    width, height = images[0].size
    sheet = Image.new("RGB", (width * columns, height * -(-len(images) // columns)), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--sheet", type=Path, help="write all pictures here, as one PNG")
    arguments = parser.parse_args()

    faces = [random_face(2 * FIRST_UNSEEN_SEED + i) for i in range(500)]
    detectors = share_right([draw(face) for face in faces], faces)
    print("detectors on 500 drawn faces:", ", ".join(f"{name} {share:.1%}" for name, share in detectors.items()))

    pipeline = StableDiffusionXLPipeline.from_pretrained(arguments.model).to(arguments.device)
    pipeline.set_progress_bar_config(disable=True)
    faces, prompts = prompts_for(arguments.prompts)
    start = time.monotonic()
    images = drawn_by(pipeline, prompts, arguments.steps, arguments.guidance)
    seconds = time.monotonic() - start
    figures = share_right(images, faces)
    print(f"{len(prompts)} prompts, {arguments.steps} steps, guidance {arguments.guidance}: {seconds:.0f} s")
    for name, share in figures.items():
        print(f"{name} as asked: {share:.1%}")
    if arguments.sheet:
        contact_sheet(images).save(arguments.sheet)
    if arguments.json:
        report = {
            "prompts": len(prompts),
            "steps": arguments.steps,
            "guidance": arguments.guidance,
            "detectors": detectors,
            "as_asked": figures,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if min(detectors.values()) < DETECTORS_AT_LEAST or min(figures.values()) < MODEL_AT_LEAST:
        sys.exit(1)


if __name__ == "__main__":
    main()

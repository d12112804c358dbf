"""Judges the pictures of a trial: saves them, compares them with the reference's, and sums them up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...objectives.judging import Judge
from ...objectives.measuring import Made
from ...objectives.verdict import Verdict
from .folder import LATENTS

REPEATED = "repeat: the same request gave another picture later on; the worse of the two is judged"
"""A flag beside a picture's judgement."""


def judge_made(
    judge: Judge,
    folder: Path,
    made: Made,
    reference: Path | None,
    prompts: Mapping[str, str],
    known: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Save what a process made as PNG in `folder`, judge each picture, and sum up together with `known` ones.

    made: by request, as decoded; where a request did not repeat itself, the worse picture is the one that is saved and
    judged. reference: the folder with the reference's pictures, with its latents beside it, None for the reference
    itself, which is judged by what it gave first; prompts by request.
    """
    import torch

    from ...objectives.pictures import load_png, save_png

    judged = {picture["file"]: dict(picture) for picture in known}
    for name, images in made.pictures.items():
        decoded = _per_picture(made.latents.get(name), len(images))
        before = decoded if reference is None else latents_of(reference.parent / LATENTS, name, len(images))
        repeats = None if reference is None else made.repeats.get(name)
        for index, image in enumerate(images):
            file = picture_file(name, index)
            original = (image if reference is None else load_png(reference / file)).to(torch.float32)
            prompt = prompts.get(name, "")
            judgement = judge.judge_file(image, original, prompt, decoded[index], before[index])
            if repeats is not None:
                again = judge.judge_file(repeats[index], original, prompt)
                if _worse(again, judgement):
                    image, judgement = repeats[index], {**again, "flags": [*again["flags"], REPEATED]}
            save_png(image, folder / file)
            judged[file] = {"file": file, "request": name, "prompt": prompt, **judgement}
    return judge.sum_up(list(judged.values()))


def picture_file(request: str, index: int) -> str:
    """The name of a request's picture at this place of its batch."""
    return f"{request}-{index}.png"


def _worse(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    ranks = [(Verdict(picture["verdict"]).rank, float(picture["drift"])) for picture in (one, other)]
    return ranks[0] > ranks[1]


def save_unjudged(folder: Path, pictures: Mapping[str, Any]) -> dict[str, Any]:
    """Save pictures made with random weights: all that is known of them is that they are pictures."""
    from ...objectives.pictures import save_png

    for name, images in pictures.items():
        for index, image in enumerate(images):
            save_png(image, folder / picture_file(name, index))
    return {"verdict": Verdict.NOT_ASSESSED, "drift": None, "pictures": [], "first_broken": None}


def save_latents(folder: Path, latents: Mapping[str, Any]) -> None:
    """Keep what the decoder got, one safetensors file per request, for metrics that are added later."""
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    for name, tensor in latents.items():
        save_file({"latents": tensor.contiguous()}, str(folder / f"{name}.safetensors"))


def latents_of(folder: Path, name: str, count: int) -> list[Any]:
    """What `save_latents` kept of the pictures of a request, one each; None for each where it kept nothing."""
    from safetensors.torch import load_file

    file = folder / f"{name}.safetensors"
    return _per_picture(load_file(str(file))["latents"] if file.is_file() else None, count)


def _per_picture(latents: Any, count: int) -> list[Any]:
    # A pipeline that decodes picture by picture leaves the latents of its last picture only.
    return [None] * count if latents is None or len(latents) != count else list(latents)

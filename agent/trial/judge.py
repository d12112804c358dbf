"""Judges the pictures of a trial: saves them, compares them with the reference's, and sums them up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...objectives.judging import Judge
from ...objectives.verdict import Verdict
from .folder import LATENTS


def judge_made(
    judge: Judge,
    folder: Path,
    pictures: Mapping[str, Any],
    reference: Path | None,
    prompts: Mapping[str, str],
    known: Sequence[Mapping[str, Any]] = (),
    latents: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Save what a process made as PNG in `folder`, judge each picture, and sum up together with `known` ones.

    pictures: {request: (B, 3, H, W) as decoded}; reference: the folder with the reference's pictures, with its
    latents beside it, None for the reference itself; prompts by request;
    latents: {request: (B, ...) as the decoder got them}.
    """
    import torch

    from ...objectives.pictures import load_png, save_png

    judged = {picture["file"]: dict(picture) for picture in known}
    for name, images in pictures.items():
        decoded = _per_picture((latents or {}).get(name), len(images))
        before = decoded if reference is None else latents_of(reference.parent / LATENTS, name, len(images))
        for index, image in enumerate(images):
            file = f"{name}-{index}.png"
            save_png(image, folder / file)
            # A reference that is not finite is reported as broken, not compared with itself.
            original = image.nan_to_num() if reference is None else load_png(reference / file)
            prompt = prompts.get(name, "")
            judgement = judge.judge_file(image, original.to(torch.float32), prompt, decoded[index], before[index])
            judged[file] = {"file": file, "request": name, "prompt": prompt, **judgement}
    return judge.sum_up(list(judged.values()))


def save_unjudged(folder: Path, pictures: Mapping[str, Any]) -> dict[str, Any]:
    """Save pictures made with random weights, and only check that their values are finite."""
    from ...objectives.pictures import save_png

    first_broken = None
    for name, images in pictures.items():
        if not images.isfinite().all():
            first_broken = f"{name}: the picture has values that are not finite"
        for index, image in enumerate(images):
            save_png(image, folder / f"{name}-{index}.png")
    return {"verdict": Verdict.NOT_ASSESSED, "drift": None, "pictures": [], "first_broken": first_broken}


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

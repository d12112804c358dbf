"""Whether the pipelines of a workload take what its requests pass to them.

Many pipelines of diffusers take any keyword (`**kwargs`) and ignore those they do not know: a misspelt one would change
nothing, without a word.
"""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ._errors import UserError

PYTHON = "write a workload in Python instead (docs/study-file.md)"
_ALWAYS = {"num_inference_steps": "steps", "guidance_scale": "guidance", "generator": "seed", "output_type": None}


_NOT_PLAIN = ("latents", "_embeds", "ip_adapter_image", "_on_step_end", "callback")
"""How the arguments end that are tensors, pictures or functions."""


def pipeline_interface(pipeline_class: Any) -> dict[str, list[str]]:
    """{"call": what a pipeline's call takes by name, "components": what it is made of}. Plain data.

    Raises ValueError for what is no pipeline.
    """
    from diffusers import DiffusionPipeline

    if getattr(pipeline_class, "__name__", "").startswith("AutoPipeline") or pipeline_class is DiffusionPipeline:
        raise ValueError("it stands for many: write the _class_name of the model's model_index.json")
    if not inspect.isclass(pipeline_class) or not issubclass(pipeline_class, DiffusionPipeline):
        raise ValueError("it is not a pipeline")

    def names(function: Any) -> list[str]:
        found = inspect.signature(function).parameters.values()
        return [one.name for one in found if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)][1:]

    return {"call": names(pipeline_class.__call__), "components": names(pipeline_class.__init__)}


def check_calls(workload: Mapping[str, Any], interfaces: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """Raise UserError for a request that its pipeline would not understand, or ignore a part of.

    workload: its description. interfaces: of the classes of its pipelines, by name.
    """
    pipelines = workload.get("pipelines", {})
    for name, spec in pipelines.items():
        for component in (*spec.get("share", ()), *spec.get("without", ())):
            known = interfaces[spec["class"]]["components"]
            if component not in known:
                said = f"pipeline {name}: {spec['class']} has no component {component!r}"
                raise UserError(f"{said}{_nearest(component, known)}: it has {', '.join(known)}")
    for request in workload["requests"] if pipelines else ():
        _check(request, pipelines[request["pipeline"]]["class"], interfaces)


def _check(request: Mapping[str, Any], class_name: str, interfaces: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    takes = interfaces[class_name]["call"]
    where = f"request {request['name']}"
    for argument in request["arguments"]:
        if argument not in takes:
            said = f"{where}: {class_name} takes no argument {argument!r}"
            raise UserError(f"{said}{_nearest(argument, takes)}; it would be ignored")
        if argument.endswith(_NOT_PLAIN) and request["arguments"][argument] is not None:
            raise UserError(f"{where}: {argument} is nothing that a study file can hold: {PYTHON}")
    passed = {"prompt": "prompt", **_ALWAYS}
    passed |= {name: name for name in ("negative_prompt", "image", "mask_image") if request.get(name) is not None}
    if request.get("image") is None:
        passed |= {"width": "width_px", "height": "height_px"}
        if "strength" in takes:  # image to image, inpainting
            raise UserError(f"{where}: {class_name} begins with a picture: set the request's image to a file")
    if "mask_image" in takes and request.get("mask_image") is None:
        raise UserError(f"{where}: {class_name} needs a mask: set the request's mask_image to a file")
    for argument, key in passed.items():
        if argument not in takes:
            of_key = f", which the request's {key} is for" if key else ""
            raise UserError(f"{where}: {class_name} takes no {argument}{of_key}: {PYTHON}")


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""

"""The number format of the modules that stand beside the pipelines."""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import torch_modules, user_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique


class ModuleDtypeParameters(Parameters):
    """dtype: of their weights, and of what they compute with."""

    dtype: Literal["float16", "bfloat16"] = "bfloat16"


def module_dtype(pipelines: dict[str, Any], *, dtype: str) -> None:
    """Convert each module, what goes into its forward(), and what comes out of it back to the format that went in."""
    import functools

    import torch

    wanted = getattr(torch, dtype)

    def converted(value: Any, to: Any) -> Any:
        if torch.is_tensor(value):
            return value.to(to) if value.is_floating_point() else value
        if isinstance(value, dict):
            return {name: converted(item, to) for name, item in value.items()}
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            return type(value)(converted(item, to) for item in value)
        return value

    def floats(values: Any) -> list[Any]:
        return [value.dtype for value in values if torch.is_tensor(value) and value.is_floating_point()]

    def around(inner: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            came = (floats(args) + floats(kwargs.values()) + [wanted])[0]
            return converted(inner(*converted(args, wanted), **converted(kwargs, wanted)), came)

        return functools.update_wrapper(forward, inner, updated=())

    for module in user_modules(pipelines):
        torch.nn.Module.to(module, dtype=wanted)
        module.forward = around(module.forward)


def took_effect(pipelines: dict[str, Any], *, dtype: str) -> str | None:
    """Whether every module is in that dtype."""
    for module in user_modules(pipelines):
        for parameter in module.parameters():
            if parameter.is_floating_point() and str(parameter.dtype) != f"torch.{dtype}":
                return f"{type(module).__name__} has weights in {str(parameter.dtype).removeprefix('torch.')}"
    return None if user_modules(pipelines) else "there is no module beside the pipelines"


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: ModuleDtypeParameters) -> str | None:
    """Formats that the device only emulates, workloads of pipelines alone, and what has the format already."""
    found = [module for entry in pipelines.values() if entry.beside for module in entry.modules.values()]
    if not found:
        return "there is no module beside the pipelines"
    if (reason := target.lacks(parameters.dtype)) is not None:
        return reason
    if {module.dtype for module in found} - {"none"} <= {parameters.dtype}:
        return f"the modules beside the pipelines are in {parameters.dtype} already"
    return None


TECHNIQUE = Technique(
    name="module_dtype",
    axis=Axis.PRECISION,
    loss=Loss.APPROXIMATE,
    summary="Runs the modules that stand beside the pipelines, an upscaler say, in 16 bits.",
    source="https://docs.pytorch.org/docs/stable/tensor_attributes.html#torch-dtype",
    parameters=ModuleDtypeParameters,
    apply=module_dtype,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WEIGHTS,
    roles=frozenset({Role.OTHER}),
    adapters_later="LoRAs and IP-Adapters may be loaded into the pipelines after it.",
    helpers=(torch_modules, user_modules),
)

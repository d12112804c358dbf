"""torch.compile of the modules that stand beside the pipelines: matting networks, upscalers."""

from collections.abc import Mapping
from typing import Any, Literal

from .._compiled import COMPILED_HELPERS, compiled, not_compiled
from .._modules import torch_modules, user_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait
from .torch_compile import MODES_WITH_GRAPHS


class TorchCompileModulesParameters(Parameters):
    """mode: torch.compile's own."""

    mode: Literal["default", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune"] = "default"


def torch_compile_modules(pipelines: dict[str, Any], *, mode: str, artefacts: Any = None) -> None:
    """Compile in place of `forward`; what torch cannot put into a graph stays as it is."""
    for module in user_modules(pipelines):
        compiled(module, "forward", artefacts, mode=mode)


def took_effect(pipelines: dict[str, Any], *, mode: str) -> str | None:
    """Whether each that was called runs compiled; a request need not call all of them."""
    called = [
        module
        for module in user_modules(pipelines)
        if not hasattr(module, "compiled_parts") or any(part["calls"] for part in module.compiled_parts.values())
    ]
    return not_compiled(called) if called else "none of the modules was called"


def refuses(
    target: Target, pipelines: Mapping[str, PipelineFacts], parameters: TorchCompileModulesParameters
) -> str | None:
    """Modes that need a GPU, and workloads of pipelines alone."""
    if target.device != "cuda" and parameters.mode != "default":
        return f"mode {parameters.mode} needs a CUDA device"
    if not any(entry.beside for entry in pipelines.values()):
        return "there is no module beside the pipelines"
    return None


def traits(parameters: TorchCompileModulesParameters) -> frozenset[Trait]:
    """What the mode adds to compiling."""
    graphs = {Trait.CUDA_GRAPHS} if parameters.mode in MODES_WITH_GRAPHS else set()
    return frozenset({Trait.COMPILES, *graphs})


TECHNIQUE = Technique(
    name="torch_compile_modules",
    axis=Axis.COMPILER,
    loss=Loss.REORDERED,
    summary="Compiles the modules that stand beside the pipelines, an upscaler say, with TorchInductor.",
    source="https://docs.pytorch.org/docs/stable/generated/torch.compile.html",
    parameters=TorchCompileModulesParameters,
    apply=torch_compile_modules,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.COMPILATION,
    traits=traits,
    roles=frozenset({Role.OTHER}),
    adapters_later="LoRAs and IP-Adapters may be loaded into the pipelines after it.",
    helpers=(torch_modules, user_modules, *COMPILED_HELPERS),
    artefacts=True,
)

"""torch.compile of the denoiser: whole, or in its blocks."""

from collections.abc import Mapping
from typing import Any, Literal

from .._compiled import COMPILED_HELPERS, compiled, not_compiled
from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait

MODES_WITH_GRAPHS = ("reduce-overhead", "max-autotune")
"""The modes in which torch records CUDA graphs itself."""


class TorchCompileParameters(Parameters):
    """region: the whole denoiser as one graph; or each of its repeated blocks alone (far shorter compilation, because
    equal blocks share one graph; a U-Net's residual blocks stay eager); or every transformer block and every residual
    block. mode: torch.compile's own. recipe: options of TorchInductor on top of the mode. dynamic: whether graphs are
    for any size: "auto" makes such a one when a second size comes, "never" makes one for each size. fullgraph: fail
    where a part of the region would not be compiled; what is compiled is the same.
    """

    region: Literal["whole", "repeated_blocks", "all_blocks"] = "whole"
    mode: Literal["default", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune"] = "default"
    recipe: Literal["none", "coordinate_descent", "conv_1x1_as_mm", "combo_kernels", "diffusion_fast"] = "none"
    dynamic: Literal["auto", "never", "always"] = "auto"
    fullgraph: bool = False


def compiled_regions(denoiser: Any, region: str) -> list[Any]:
    """The modules that are compiled, each on its own."""
    if region == "whole":
        return [denoiser]
    repeated = [
        m for m in denoiser.modules() if type(m).__name__ in (getattr(denoiser, "_repeated_blocks", None) or ())
    ]
    if region == "repeated_blocks":
        return repeated
    lists = [
        child
        for module in denoiser.modules()
        for name, child in module._modules.items()
        if name in ("transformer_blocks", "single_transformer_blocks", "resnets")
    ]
    return list({id(module): module for module in [*repeated, *(m for each in lists for m in each)]}.values())


def torch_compile(
    pipelines: dict[str, Any],
    *,
    region: str,
    mode: str,
    recipe: str,
    dynamic: str,
    fullgraph: bool,
    artefacts: Any = None,
) -> None:
    """Compile in place of `forward`. What is in `artefacts` is for the sizes that it was built for, and no others."""
    from torch._inductor import list_mode_options

    recipes: dict[str, dict[str, Any]] = {
        "none": {},
        "coordinate_descent": {"coordinate_descent_tuning": True, "coordinate_descent_check_all_directions": True},
        "conv_1x1_as_mm": {"conv_1x1_as_mm": True},
        "combo_kernels": {"combo_kernels": True},
        # https://github.com/huggingface/diffusion-fast
        "diffusion_fast": {
            "conv_1x1_as_mm": True,
            "coordinate_descent_tuning": True,
            "epilogue_fusion": False,
            "coordinate_descent_check_all_directions": True,
        },
    }
    how: dict[str, Any] = {"dynamic": {"auto": None, "never": False, "always": True}[dynamic], "fullgraph": fullgraph}
    if recipe == "none":
        how["mode"] = mode
    else:
        # torch takes a mode or options, not both; a mode is a set of options.
        how["options"] = {**list_mode_options(mode), **recipes[recipe]}
    for denoiser in denoisers(pipelines):
        for module in compiled_regions(denoiser, region):
            # A step cache splits forward() into parts that are each one graph, and lists them here.
            for part in getattr(module, "forward_parts", ["forward"]):
                compiled(module, part, artefacts, **how)


def took_effect(pipelines: dict[str, Any], *, region: str, **others: Any) -> str | None:
    """Whether every region runs compiled."""
    return not_compiled([m for denoiser in denoisers(pipelines) for m in compiled_regions(denoiser, region)])


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: TorchCompileParameters) -> str | None:
    """Modes that need a GPU, pipelines without a denoiser, and denoisers without known blocks."""
    if target.device != "cuda" and parameters.mode != "default":
        return f"mode {parameters.mode} needs a CUDA device"
    if target.device != "cuda" and parameters.recipe != "none":
        return f"recipe {parameters.recipe} is for kernels on a CUDA device"
    found = [denoiser for pipeline in pipelines.values() for denoiser in pipeline.denoisers]
    if not found:
        return "no pipeline has a denoiser"
    for denoiser in found:
        if parameters.region == "repeated_blocks" and not denoiser.has_repeated_blocks:
            return f"diffusers does not say which blocks of the denoiser, a {denoiser.class_name}, repeat"
        if parameters.region == "all_blocks" and not denoiser.has_blocks:
            return f"the denoiser, a {denoiser.class_name}, has no blocks of a known kind"
    return None


def traits(parameters: TorchCompileParameters) -> frozenset[Trait]:
    """What region and mode add to compiling."""
    found = {Trait.COMPILES}
    if parameters.region == "whole":
        found.add(Trait.COMPILES_WHOLE)
    if parameters.mode in MODES_WITH_GRAPHS:
        found.add(Trait.CUDA_GRAPHS)
    return frozenset(found)


def plan(pipelines: Mapping[str, PipelineFacts], parameters: TorchCompileParameters) -> Any:
    """What is compiled, and how: fullgraph makes no other code of it."""
    return {name: value for name, value in parameters.model_dump().items() if name != "fullgraph"}


TECHNIQUE = Technique(
    name="torch_compile",
    axis=Axis.COMPILER,
    loss=Loss.REORDERED,
    summary="Compiles the denoiser with TorchInductor: faster calls, a long first one.",
    source="https://docs.pytorch.org/docs/stable/generated/torch.compile.html",
    parameters=TorchCompileParameters,
    apply=torch_compile,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.COMPILATION,
    traits=traits,
    roles=frozenset({Role.DENOISER}),
    adapters_later=(
        "LoRAs and IP-Adapters may be loaded after it; the first call with each new combination compiles again."
    ),
    plan=plan,
    helpers=(torch_modules, denoisers, *COMPILED_HELPERS, compiled_regions),
    artefacts=True,
)

"""The denoiser as TensorRT engines."""

from collections.abc import Mapping
from typing import Any

from .._compiled import COMPILED_HELPERS, compiled, not_compiled
from .._module_state import stays_as_it_is, weight_writes
from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, NoParameters, Stage, Technique, Trait
from .._watch import watch


def torch_tensorrt(pipelines: dict[str, Any]) -> None:
    """torch.compile with TensorRT behind it; the number formats are those of the pipeline."""
    import torch_tensorrt as registers_its_backend  # noqa: F401

    options = {"use_explicit_typing": True, "truncate_double": True}
    for denoiser in denoisers(pipelines):
        # A step cache splits forward() into parts that are each one graph, and lists them here.
        for part in getattr(denoiser, "forward_parts", ["forward"]):
            compiled(denoiser, part, backend="torch_tensorrt", options=options, dynamic=False)
        watch(pipelines, stays_as_it_is("torch_tensorrt", denoiser))


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether every denoiser runs compiled."""
    return not_compiled(denoisers(pipelines))


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: NoParameters) -> str | None:
    """Devices other than CUDA, and pipelines without a denoiser."""
    if target.device != "cuda":
        return "TensorRT needs a CUDA device"
    if not any(pipeline.denoisers for pipeline in pipelines.values()):
        return "no pipeline has a denoiser"
    return None


TECHNIQUE = Technique(
    name="torch_tensorrt",
    axis=Axis.COMPILER,
    loss=Loss.APPROXIMATE,  # TensorRT chooses kernels by their time, those that add up in 16 bits among them
    summary="Compiles the denoiser into TensorRT engines, one for each shape: a first call of minutes.",
    source="https://docs.pytorch.org/TensorRT/user_guide/torch_compile.html",
    parameters=NoParameters,
    apply=torch_tensorrt,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.COMPILATION,
    roles=frozenset({Role.DENOISER}),
    traits=frozenset({Trait.COMPILES, Trait.COMPILES_WHOLE, Trait.FREEZES_LAYERS}),
    helpers=(torch_modules, denoisers, *COMPILED_HELPERS, stays_as_it_is, weight_writes, watch),
    adapters_later="Adapters may be loaded before its first call only: a later one ends the next call in an error.",
    packages=("torch-tensorrt",),
)

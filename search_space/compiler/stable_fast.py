"""stable-fast: the denoiser as a TorchScript graph with fused kernels of its own.

1.0.5 is its last release. Built without CUDA on torch 2.13 it ran with diffusers 0.42.1, and differed by 9e-7 at
most. What is called here (compile_unet, tracing, graphs) was read beside these versions and needs no patch: what
diffusers has renamed is used by its compile() of whole pipelines only, which is not called. It keeps a trace for each
set of argument names, types and numbers, whatever the shapes, and a CUDA graph for each shape. With triton=True it
changes how Triton starts kernels in the whole process.

TorchScript runs a trace as it is the first time that it meets shapes, and fused from then on, which rounds otherwise:
on an H200, torch 2.11, the first picture was 1e-3 away from all later ones, which were equal. So that every picture is
the same, the first call with any shapes, or any other values that it keeps a trace for, is made twice.
"""

from collections.abc import Mapping
from typing import Any

from .._module_state import module_state, stays_as_it_is, weight_writes
from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait
from .._watch import watch


class StableFastParameters(Parameters):
    """cuda_graph: record the traced graph. triton: fused group norms written in Triton. low_precision_gemm: matrix
    products that add up in float16. All three do nothing on a CPU; the last one needs stable-fast's CUDA kernels.
    """

    cuda_graph: bool = False
    triton: bool = False
    low_precision_gemm: bool = False


def stable_fast(pipelines: dict[str, Any], *, cuda_graph: bool, triton: bool, low_precision_gemm: bool) -> None:
    """Trace at the first call. Its default layout of weights is channels-last where that is faster.

    A frozen graph keeps the parameters themselves (preserve_parameters, by default): weights are there once.
    """
    import functools

    import torch
    from sfast.compilers.diffusion_pipeline_compiler import CompilationConfig, compile_unet

    config = CompilationConfig.Default()
    config.enable_cuda_graph = cuda_graph
    config.enable_triton = triton
    config.prefer_lowp_gemm = low_precision_gemm
    config.enable_fused_linear_geglu = low_precision_gemm

    def shapes(value: Any) -> Any:
        if torch.is_tensor(value):
            return (value.shape, value.dtype)
        if isinstance(value, dict):
            return tuple((name, shapes(item)) for name, item in value.items())
        if isinstance(value, (list, tuple)):
            return tuple(map(shapes, value))
        return value if isinstance(value, (str, int, float, bytes)) else type(value)

    def alike(traced: Any) -> Any:
        met = set()

        def forward(*args: Any, **kwargs: Any) -> Any:
            if (now := shapes((args, kwargs))) not in met:
                traced(*args, **kwargs)
                met.add(now)
            return traced(*args, **kwargs)

        return functools.update_wrapper(forward, traced, updated=())

    for denoiser in denoisers(pipelines):
        compile_unet(denoiser, config)
        denoiser.stable_fast_traced = denoiser.forward
        if not cuda_graph:  # a recording is made of the fused one, and repeated
            denoiser.forward = alike(denoiser.forward)
        watch(pipelines, stays_as_it_is("stable_fast", denoiser))


def took_effect(pipelines: dict[str, Any], **parameters: bool) -> str | None:
    """Whether the denoisers were traced."""
    for denoiser in denoisers(pipelines):
        traced = getattr(denoiser, "stable_fast_traced", None)
        if traced is None or not getattr(traced, "_cached", True):
            return f"{type(denoiser).__name__} was not traced"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: StableFastParameters) -> str | None:
    """Denoisers that are no U-Net, and what only a GPU can do."""
    found = [denoiser for pipeline in pipelines.values() for denoiser in pipeline.denoisers]
    if not found:
        return "no pipeline has a denoiser"
    for denoiser in found:
        if not denoiser.is_unet:
            return f"stable-fast compiles U-Nets, and the denoiser is a {denoiser.class_name}"
    if target.device != "cuda" and (parameters.cuda_graph or parameters.triton or parameters.low_precision_gemm):
        return "CUDA graphs, Triton and products in float16 need a CUDA device"
    return None


def traits(parameters: StableFastParameters) -> frozenset[Trait]:
    """What it traces stays as it is."""
    found = {Trait.COMPILES, Trait.COMPILES_WHOLE, Trait.FREEZES_LAYERS}
    return frozenset(found | {Trait.CUDA_GRAPHS} if parameters.cuda_graph else found)


def loss(parameters: StableFastParameters) -> Loss:
    """Products that add up in float16 lose digits."""
    return Loss.APPROXIMATE if parameters.low_precision_gemm else Loss.REORDERED


TECHNIQUE = Technique(
    name="stable_fast",
    axis=Axis.COMPILER,
    loss=loss,
    summary="Traces the U-Net with stable-fast: compiled in seconds, and with its CUDA graphs few launches remain.",
    source="https://github.com/chengzeyi/stable-fast",
    parameters=StableFastParameters,
    apply=stable_fast,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.COMPILATION,
    roles=frozenset({Role.DENOISER}),
    traits=traits,
    helpers=(torch_modules, denoisers, module_state, stays_as_it_is, weight_writes, watch),
    adapters_later="Adapters may be loaded before its first call only: a later one ends the next call in an error.",
    packages=("stable-fast",),
)

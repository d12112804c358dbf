"""The denoiser's weights wait in float8, and each layer converts its own for the call."""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import denoisers, torch_modules
from .._one_thread import one_thread_at_a_time
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait


class LayerwiseCastingParameters(Parameters):
    """storage: e4m3 has 3 digits after the binary point, e5m2 has 2 and a wider range."""

    storage: Literal["float8_e4m3fn", "float8_e5m2"] = "float8_e4m3fn"


def layerwise_casting(pipelines: dict[str, Any], *, storage: str) -> None:
    """Half the weights' memory of 16 bits. Norms and embeddings, and what adapters add, stay as they are.

    While one thread computes with a layer's converted weights, another would convert them back: calls from two at once
    raise RuntimeError.
    """
    import threading

    import torch

    def guard(denoiser: Any) -> None:
        alone, here = one_thread_at_a_time(denoiser, "layerwise_casting"), threading.local()

        def enter(module: Any, args: Any) -> None:
            call = alone()
            call.__enter__()
            here.call = call

        def leave(module: Any, args: Any, output: Any) -> None:
            # Also after a call that failed, or was refused: then there is nothing to leave.
            if (call := vars(here).pop("call", None)) is not None:
                call.__exit__(None, None, None)

        denoiser.register_forward_pre_hook(enter)
        denoiser.register_forward_hook(leave, always_call=True)

    for denoiser in denoisers(pipelines):
        if any("IPAdapter" in type(processor).__name__ for processor in denoiser.attn_processors.values()):
            raise ValueError("layerwise_casting: unload the IP-Adapter first, and load it again after apply()")
        denoiser.enable_layerwise_casting(storage_dtype=getattr(torch, storage), compute_dtype=denoiser.dtype)
        guard(denoiser)


def took_effect(pipelines: dict[str, Any], *, storage: str) -> str | None:
    """Whether most of the weights wait in that format."""
    import torch

    for denoiser in denoisers(pipelines):
        weights = list(denoiser.parameters())
        small = sum(weight.numel() for weight in weights if weight.dtype == getattr(torch, storage))
        if small < sum(weight.numel() for weight in weights) / 2:
            return f"most weights of {type(denoiser).__name__} are not in {storage}"
    return None


def refuses(
    target: Target, pipelines: Mapping[str, PipelineFacts], parameters: LayerwiseCastingParameters
) -> str | None:
    """Pipelines without a denoiser of diffusers'."""
    found = [denoiser for pipeline in pipelines.values() for denoiser in pipeline.denoisers]
    if not found:
        return "no pipeline has a denoiser"
    for denoiser in found:
        if not denoiser.casts_layers:
            return f"diffusers cannot convert the layers of the denoiser, a {denoiser.class_name}"
    return None


TECHNIQUE = Technique(
    name="layerwise_casting",
    axis=Axis.PRECISION,
    loss=Loss.APPROXIMATE,
    summary="Keeps the denoiser's weights in float8 and converts each layer's for its call: less memory, slower calls.",
    source="https://huggingface.co/docs/diffusers/optimization/memory#layerwise-casting",
    parameters=LayerwiseCastingParameters,
    apply=layerwise_casting,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.QUANTIZATION,
    roles=frozenset({Role.DENOISER}),
    adapters_later="LoRAs and IP-Adapters may be loaded after it; a LoRA cannot be fused into weights in float8.",
    traits=frozenset({Trait.CASTS_WEIGHTS}),
    helpers=(torch_modules, denoisers, one_thread_at_a_time),
)

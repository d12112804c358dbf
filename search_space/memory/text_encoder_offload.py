"""The text encoders are on the GPU only while they read a prompt."""

from collections.abc import Mapping
from typing import Any

from .._calls import wrap_forward
from .._modules import denoisers, text_encoders, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, NoParameters, Stage, Technique, Trait


def text_encoder_offload(pipelines: dict[str, Any]) -> None:
    """An encoder comes to the GPU when it is called, and leaves when the denoising begins.

    Hooks of accelerate bring them, because pipelines ask those hooks where a module runs.
    """
    import torch
    from accelerate import cpu_offload_with_hook

    def offload(encoder: Any) -> Any:
        _, hook = cpu_offload_with_hook(encoder, torch.device("cuda"))
        encoder.text_encoder_offloads = {"count": 0}

        def leave() -> None:
            if next(encoder.parameters()).device.type != "cpu":
                hook.offload()
                encoder.text_encoder_offloads["count"] += 1

        return leave

    leaving = [offload(encoder) for encoder in text_encoders(pipelines)]

    def without_encoders(inner: Any, *args: Any, **kwargs: Any) -> Any:
        for leave in leaving:
            leave()
        return inner(*args, **kwargs)

    for denoiser in denoisers(pipelines):
        wrap_forward(denoiser, "text_encoder_offload", without_encoders)


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether the encoders have left the GPU after the call, and had been there."""
    for encoder in text_encoders(pipelines):
        if not getattr(encoder, "text_encoder_offloads", {}).get("count"):
            return f"{type(encoder).__name__} never left the GPU"
        if any(parameter.device.type != "cpu" for parameter in encoder.parameters()):
            return f"{type(encoder).__name__} stayed on the GPU"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: NoParameters) -> str | None:
    """Devices without memory of their own, and pipelines without the two kinds of modules."""
    if target.device != "cuda":
        return "there is no GPU memory to save"
    if not any(pipeline.text_encoders and pipeline.denoisers for pipeline in pipelines.values()):
        return "no pipeline has a text encoder and a denoiser"
    return None


TECHNIQUE = Technique(
    name="text_encoder_offload",
    axis=Axis.MEMORY,
    loss=Loss.BIT_IDENTICAL,
    summary="Keeps the text encoders in main memory while the denoiser runs: their memory is free for it.",
    source="https://huggingface.co/docs/diffusers/optimization/memory#model-offloading",
    parameters=NoParameters,
    apply=text_encoder_offload,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.PLACEMENT,
    roles=frozenset({Role.TEXT_ENCODER}),
    adapters_later="LoRAs and IP-Adapters may be loaded after it.",
    traits=frozenset({Trait.MOVES_WEIGHTS}),
    helpers=(torch_modules, denoisers, text_encoders, wrap_forward),
)

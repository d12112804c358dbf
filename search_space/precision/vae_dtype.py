"""The VAE's own number format, apart from the denoiser's."""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import torch_modules, vaes
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique


class VaeDtypeParameters(Parameters):
    """dtype: of the VAE's weights and activations. float32 keeps what pipelines that decode in float32 convert in every
    call, so that its weights stay in place; bfloat16 has the range of float32 and fewer digits. float16 ends at 65,504:
    a picture that overflows ends the call in an error, and is never a black one.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


def vae_dtype(pipelines: dict[str, Any], *, dtype: str) -> None:
    """Convert the VAEs, and convert what comes in and goes out, so that the pipelines need not know."""
    import torch

    wanted = getattr(torch, dtype)

    def to_wanted(value: Any) -> Any:
        return value.to(wanted) if torch.is_tensor(value) else value

    def between(vae: Any, name: str) -> None:
        inner = getattr(vae, name)

        def converted(*args: Any, **kwargs: Any) -> Any:
            vae.vae_dtype_calls["count"] += 1
            result = inner(*map(to_wanted, args), **{key: to_wanted(value) for key, value in kwargs.items()})
            # Waits for the GPU, as the pipeline does next, to fetch the picture.
            if name == "decode" and dtype == "float16" and not torch.isfinite(result[0]).all():
                raise RuntimeError(
                    "vae_dtype: the VAE overflowed in float16, and the picture would be black: this VAE needs "
                    'vae_dtype "bfloat16" or "float32"'
                )
            return result

        setattr(vae, name, converted)

    for vae in vaes(pipelines):
        torch.nn.Module.to(vae, dtype=wanted)
        # Else a pipeline converts a float16 VAE to float32 in each call, and back.
        vae.register_to_config(force_upcast=False)
        vae.vae_dtype_calls = {"count": 0}
        between(vae, "decode")
        between(vae, "encode")


def took_effect(pipelines: dict[str, Any], *, dtype: str) -> str | None:
    """Whether the VAEs are in that dtype, and ran so."""
    import torch

    for vae in vaes(pipelines):
        if not getattr(vae, "vae_dtype_calls", {}).get("count"):
            return "no call went through the VAE"
        found = {parameter.dtype for parameter in vae.parameters()}
        if found != {getattr(torch, dtype)}:
            return f"the VAE has weights in {', '.join(str(each).removeprefix('torch.') for each in found)}"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: VaeDtypeParameters) -> str | None:
    """Pipelines without a VAE, the dtype it runs in already, and formats that the device lacks."""
    found = [vae for pipeline in pipelines.values() for vae in pipeline.vaes]
    if not found:
        return "no pipeline has a VAE"
    if all(vae.dtype == parameters.dtype and not vae.upcasts for vae in found):
        return f"the VAE runs in {parameters.dtype} already"
    return target.lacks(parameters.dtype)


def loss(parameters: VaeDtypeParameters) -> Loss:
    """float32 is what a 16-bit VAE is decoded in, or more digits than it has; only the first rounding differs."""
    return Loss.REORDERED if parameters.dtype == "float32" else Loss.APPROXIMATE


TECHNIQUE = Technique(
    name="vae_dtype",
    axis=Axis.PRECISION,
    loss=loss,
    summary="Runs the VAE in a number format of its own: float32 without a conversion in every call, or 16 bits.",
    source="https://huggingface.co/docs/diffusers/api/models/autoencoderkl",
    parameters=VaeDtypeParameters,
    apply=vae_dtype,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WEIGHTS,
    roles=frozenset({Role.VAE}),
    helpers=(torch_modules, vaes),
    adapters_later="Adapters may be loaded later; a VAE that is loaded later runs in its own number format.",
)

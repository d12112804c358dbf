"""Which of diffusers' attention kernels the denoiser uses, those of other packages among them."""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique

PACKAGES = {
    "flash": ("flash-attn>=2.6.3",),
    "_flash_3": ("flash-attn-3>=3.0.0b1",),
    "sage": ("sageattention>=2.1.1",),
    "xformers": ("xformers>=0.0.29",),
}


class AttentionBackendParameters(Parameters):
    """backend: diffusers' name of the kernel. Those with "native" are torch's own; sage computes in 8 bits."""

    backend: Literal[
        "native",
        "_native_flash",
        "_native_cudnn",
        "_native_efficient",
        "_native_math",
        "flash",
        "_flash_3",
        "sage",
        "xformers",
    ] = "native"


def attention_backend(pipelines: dict[str, Any], *, backend: str) -> None:
    """Set the kernel on the processors. set_attention_backend() would change it for the whole process as well, and
    change nothing in a U-Net, whose processors do not ask diffusers' dispatcher; they get one here that does.
    """
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
    from diffusers.models.attention_processor import AttnProcessor2_0

    kernel = AttentionBackendName(backend)

    class DispatchedAttnProcessor:
        """AttnProcessor2_0, but for the kernel. Loading an IP-Adapter makes new ones by calling the class."""

        _attention_backend = kernel
        _parallel_config = None

        def __call__(
            self,
            attn: Any,
            hidden_states: Any,
            encoder_hidden_states: Any = None,
            attention_mask: Any = None,
            temb: Any = None,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            residual = hidden_states
            if attn.spatial_norm is not None:
                hidden_states = attn.spatial_norm(hidden_states, temb)
            shape = hidden_states.shape
            if len(shape) == 4:
                hidden_states = hidden_states.flatten(2).transpose(1, 2)
            context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            batch, length = context.shape[:2]
            if attention_mask is not None:
                attention_mask = attn.prepare_attention_mask(attention_mask, length, batch)
                attention_mask = attention_mask.view(batch, attn.heads, -1, attention_mask.shape[-1])
            if attn.group_norm is not None:
                hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
            if encoder_hidden_states is None:
                context = hidden_states
            elif attn.norm_cross:
                context = attn.norm_encoder_hidden_states(encoder_hidden_states)
            query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
            query, key, value = (each.unflatten(2, (attn.heads, -1)) for each in (query, key, value))
            if attn.norm_q is not None:
                query = attn.norm_q(query)
            if attn.norm_k is not None:
                key = attn.norm_k(key)
            # (batch, length, heads, channels), unlike scaled_dot_product_attention
            mixed = dispatch_attention_fn(query, key, value, attn_mask=attention_mask, backend=self._attention_backend)
            mixed = mixed.flatten(2, 3).to(query.dtype)
            mixed = attn.to_out[1](attn.to_out[0](mixed))
            if len(shape) == 4:
                mixed = mixed.transpose(-1, -2).reshape(shape)
            if attn.residual_connection:
                mixed = mixed + residual
            return mixed / attn.rescale_output_factor

    def dispatched(processor: Any) -> Any:
        return DispatchedAttnProcessor() if type(processor) is AttnProcessor2_0 else processor

    def replace_processors(denoiser: Any) -> None:
        inner = denoiser.set_attn_processor

        # Loading and unloading an IP-Adapter sets processors of diffusers' own again.
        def set_attn_processor(processor: Any, *args: Any, **kwargs: Any) -> None:
            chosen = (
                {name: dispatched(each) for name, each in processor.items()} if isinstance(processor, dict) else None
            )
            inner(dispatched(processor) if chosen is None else chosen, *args, **kwargs)

        denoiser.set_attn_processor = set_attn_processor
        denoiser.set_attn_processor(denoiser.attn_processors)

    for denoiser in denoisers(pipelines):
        if "UNet" in type(denoiser).__name__:
            replace_processors(denoiser)
        else:
            for processor in denoiser.attn_processors.values():
                processor._attention_backend = kernel


def took_effect(pipelines: dict[str, Any], *, backend: str) -> str | None:
    """Whether all processors ask for that kernel, but for those of an IP-Adapter, which know torch's only."""
    for denoiser in denoisers(pipelines):
        for name, processor in denoiser.attn_processors.items():
            kind = type(processor).__name__
            if getattr(processor, "_attention_backend", None) != backend and "IPAdapter" not in kind:
                return f"{name}, a {kind}, does not use {backend}"
    return None


def refuses(
    target: Target, pipelines: Mapping[str, PipelineFacts], parameters: AttentionBackendParameters
) -> str | None:
    """Kernels that the device lacks, and denoisers whose attention diffusers' dispatcher does not reach."""
    found = [denoiser for pipeline in pipelines.values() for denoiser in pipeline.denoisers]
    if not found:
        return "no pipeline has a denoiser"
    for denoiser in found:
        if not denoiser.is_unet and not denoiser.dispatches_attention:
            return f"diffusers' dispatcher does not reach the attention of the denoiser, a {denoiser.class_name}"
    backend = parameters.backend
    if target.device != "cuda":
        if backend not in ("native", "_native_flash", "_native_math"):
            return f"{backend} attention needs a CUDA device"
    elif backend == "_flash_3":
        return None if target.sm() == 90 else "FlashAttention 3 is for compute capability 9.0 only"
    elif backend in ("_native_flash", "_native_cudnn", "flash", "sage") and target.sm() < 80:
        return f"{backend} attention needs compute capability 8.0"
    return None


def loss(parameters: AttentionBackendParameters) -> Loss:
    """sage rounds queries and keys to 8 bits."""
    return Loss.APPROXIMATE if parameters.backend == "sage" else Loss.REORDERED


def packages(parameters: AttentionBackendParameters) -> tuple[str, ...]:
    """The package whose kernel it is."""
    return PACKAGES.get(parameters.backend, ())


TECHNIQUE = Technique(
    name="attention_backend",
    axis=Axis.ATTENTION,
    loss=loss,
    summary="Computes the denoiser's attention with a kernel of diffusers' dispatcher: torch's, or another package's.",
    source="https://huggingface.co/docs/diffusers/optimization/attention_backends",
    parameters=AttentionBackendParameters,
    apply=attention_backend,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.LAYERS,
    roles=frozenset({Role.DENOISER}),
    helpers=(torch_modules, denoisers),
    packages=packages,
)

"""One matrix product for query, key and value instead of three, in the denoiser's attention layers."""

from collections.abc import Mapping
from typing import Any

from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, NoParameters, Stage, Technique, Trait
from .._watch import watch


def fused_qkv(pipelines: dict[str, Any]) -> None:
    """Fuse the projections of every denoiser. The separate weights stay beside the fused ones: memory grows.

    The fused weights are copies: what changes the separate ones later would not reach the picture, and what replaces
    the attention processors would undo the fusion. Both are noticed at the next call.
    """
    import torch

    projections = {
        "to_qkv": ("to_q", "to_k", "to_v"),
        "to_kv": ("to_k", "to_v"),
        "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
    }

    def notes(layers: list[Any]) -> list[tuple[Any, str, Any]]:
        """(where it is kept, its name, it) of all that fused attention relies on."""
        kept = [(vars(layer), "fused_projections", True) for layer in layers]
        for layer in layers:
            # A processor that is a module is kept among the modules.
            holder = vars(layer) if "processor" in vars(layer) else layer._modules
            kept.append((holder, "processor", holder.get("processor")))
            for fused, parts in projections.items():
                if fused in layer._modules:
                    kept += [(layer._modules, name, layer._modules[name]) for name in (fused, *parts)]
        return kept

    def stamps(layers: list[Any]) -> list[tuple[Any, str, int, int]]:
        """(a layer's parameters, a name, that weight's identity and version) of the separate weights: what tells that
        one was replaced or written to. Tensors that were made in inference mode count no versions.
        """
        separate = {name for parts in projections.values() for name in parts}
        parameters = [layer._modules[name]._parameters for layer in layers for name in separate & set(layer._modules)]
        every = [(found, name, weight) for found in parameters for name, weight in found.items() if weight is not None]
        return [(found, name, id(w), w._version) for found, name, w in every if not w.is_inference()]

    def loras_gone(denoiser: Any) -> int:
        """How many LoRAs came and went, as far as calls have seen. One that is fused into weights does not change their
        version; diffusers leaves the attribute where it unloads one, fused or not.
        """
        kept = vars(denoiser)
        if kept.get("_hf_peft_config_loaded", "never") is None:
            del kept["_hf_peft_config_loaded"]
            kept["loras_gone"] = kept.get("loras_gone", 0) + 1
        return int(kept.get("loras_gone", 0))

    def equal(layer: Any) -> bool:
        """Whether the fused weights still are the separate ones."""
        for fused, parts in projections.items():
            for kind in ("weight", "bias"):
                whole = getattr(layer._modules.get(fused), kind, None)
                # Quantized ones can be neither compared nor written to.
                if type(whole) is torch.nn.Parameter:
                    separate = torch.cat([getattr(layer._modules[name], kind) for name in parts])
                    if not torch.equal(whole, separate.to(whole)):
                        return False
        return True

    def holds_for(denoiser: Any) -> Any:
        layers = [module for module in denoiser.modules() if getattr(module, "fused_projections", False)]
        noted = notes(layers)
        state: dict[str, Any] = {"stamps": stamps(layers), "loras": loras_gone(denoiser)}

        def written_to() -> bool:
            for parameters, name, identity, version in state["stamps"]:
                weight = parameters[name]
                if id(weight) != identity or weight._version != version:
                    return True
            return bool(loras_gone(denoiser) != state["loras"])

        def holds() -> str | None:
            for holder, name, item in noted:
                if holder.get(name) is not item:
                    if name in ("processor", "fused_projections"):
                        return (
                            "fused_qkv: the attention processors were replaced after apply(), by an IP-Adapter say, "
                            "and no longer use the fused projections. Undo that, or load the pipeline anew and leave "
                            "fused_qkv out"
                        )
                    return (
                        f"fused_qkv: the layer {name} was replaced after apply(), by a LoRA say, and the fused "
                        "projections would ignore it. Unload it; to use a LoRA, load the pipeline anew, fuse the LoRA "
                        "into the weights (fuse_lora, unload_lora_weights), and then call apply()"
                    )
            if written_to():
                if not all(equal(layer) for layer in layers):
                    return (
                        "fused_qkv: weights of the projections were changed after apply(), by fuse_lora or "
                        "load_state_dict say, and the fused ones are the old ones. Load the pipeline anew, change its "
                        "weights, and then call apply()"
                    )
                state.update(stamps=stamps(layers), loras=loras_gone(denoiser))
            return None

        return holds

    for denoiser in denoisers(pipelines):
        # diffusers would replace an IP-Adapter's processors, and ignore LoRA layers on q, k and v, without a word.
        if any("IPAdapter" in type(processor).__name__ for processor in denoiser.attn_processors.values()):
            raise ValueError("fused_qkv: an IP-Adapter has its own attention processors: unload it, or leave this out")
        if getattr(denoiser, "peft_config", None):
            raise ValueError("fused_qkv: fuse LoRA adapters into the weights first (fuse_lora, unload_lora_weights)")
        denoiser.fuse_qkv_projections()
        watch(pipelines, holds_for(denoiser))


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether attention layers have fused weights and processors that use them."""
    for denoiser in denoisers(pipelines):
        if not any(getattr(module, "fused_projections", False) for module in denoiser.modules()):
            return "no attention layer of the denoiser is fused"
        # The processors of most transformers see for themselves whether a layer is fused; those of U-Nets do not.
        processors = [type(processor).__name__ for processor in denoiser.attn_processors.values()]
        if "UNet" in type(denoiser).__name__ and not any(name.startswith("Fused") for name in processors):
            return "the U-Net's attention processors were replaced by ones that do not use the fused weights"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: NoParameters) -> str | None:
    """Pipelines without a denoiser, and denoisers whose projections diffusers cannot fuse."""
    found = [denoiser for pipeline in pipelines.values() for denoiser in pipeline.denoisers]
    if not found:
        return "no pipeline has a denoiser"
    for denoiser in found:
        if not denoiser.fuses_qkv:
            return f"diffusers cannot fuse the projections of the denoiser, a {denoiser.class_name}"
    return None


TECHNIQUE = Technique(
    name="fused_qkv",
    axis=Axis.ATTENTION,
    loss=Loss.REORDERED,
    summary="Computes query, key and value of each attention layer in one matrix product: fewer, larger kernels.",
    source="https://huggingface.co/docs/diffusers/optimization/fp16#fuse-projection-matrices",
    parameters=NoParameters,
    apply=fused_qkv,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.LAYERS,
    roles=frozenset({Role.DENOISER}),
    traits=frozenset({Trait.REPLACES_PROCESSORS}),
    adapters_later=(
        "Nothing that changes attention: a LoRA or an IP-Adapter that is loaded after it raises an error at "
        "the next call. Fuse a LoRA into the weights before."
    ),
    helpers=(torch_modules, denoisers, watch),
)

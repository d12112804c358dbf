"""LoRAs that are exchanged in the layers of the first one: nothing is compiled or recorded again, whatever the rank.

diffusers' hot-swapping, with what it leaves to the product: it is switched on before the first LoRA, the layers stay
when a LoRA goes, with zeros in them, and the next one takes its place.
"""

from typing import Any, Literal

from .._modules import denoisers, torch_modules
from .._target import Role
from .._technique import Axis, Loss, Parameters, Stage, Technique
from .._turns import take_turns
from ._loras import refuses_without_loras


class LoraHotswapParameters(Parameters):
    """most_rank: of any LoRA that will come. Smaller ones are filled up with zeros, and cost as much."""

    most_rank: Literal[16, 32, 64, 128] = 64


def swapped_loras(pipeline: Any, loaded: dict[str, Any], most_rank: int, lock: Any) -> Any:
    """load(...), unload() and scale(...) in place of a pipeline's own.

    loaded: what all pipelines with this denoiser have loaded. lock: of the denoiser's pictures.
    """
    import torch

    own = "hotswap"
    loaded.update(name=None, ups=[], scale=1.0, first=False)
    original, switch_on = pipeline.load_lora_weights, pipeline.enable_lora_hotswap
    denoiser = denoisers({"": pipeline})[0]

    def ups() -> list[Any]:
        """The halves that make a LoRA nothing where they are zero."""
        found = [layer.lora_B[own] for layer in denoiser.modules() if own in getattr(layer, "lora_B", ())]
        return [layer.weight for layer in found]

    def write() -> None:
        with torch.no_grad():
            for weight, value in loaded["ups"]:
                weight.copy_(value * loaded["scale"])

    def load(source: Any, adapter_name: Any = None, hotswap: bool = False, **kwargs: Any) -> None:
        if loaded["ups"] and not hotswap:
            raise RuntimeError("lora_hotswap: one LoRA at a time; unload the one before, or leave the technique out")
        tensors = pipeline.lora_state_dict(source.copy() if isinstance(source, dict) else source, **kwargs)
        tensors = tensors[0] if isinstance(tensors, tuple) else tensors
        if any(key.startswith("text_encoder") for key in tensors):
            raise RuntimeError("lora_hotswap: diffusers exchanges LoRAs of the denoiser only, and this one has more")
        with lock:
            again = loaded["first"]
            if not again:
                switch_on(target_rank=most_rank, check_compiled="ignore")
            try:
                original(source, adapter_name=own, hotswap=again, **kwargs)
            except RuntimeError as error:
                if not again:
                    raise
                raise RuntimeError(
                    "lora_hotswap: this LoRA changes other layers than the first one that was loaded; load the one "
                    f"with most layers first, or leave the technique out ({error})"
                ) from error
            loaded.update(name=adapter_name or "default_0", scale=1.0, first=True)
            loaded["ups"] = [(weight, weight.detach().clone()) for weight in ups()]
        denoiser.lora_hotswaps = getattr(denoiser, "lora_hotswaps", 0) + 1

    def unload(reset_to_overwritten_params: Any = None) -> None:
        with lock, torch.no_grad():
            for weight, _ in loaded["ups"]:
                weight.zero_()
            loaded.update(name=None, ups=[], scale=1.0)

    def scale(names: Any, adapter_weights: Any = None) -> None:
        """In place of set_adapters()."""
        names, weights = ([one] if isinstance(one, (str, float, int)) else one for one in (names, adapter_weights))
        if list(names) != [loaded["name"]] or any(isinstance(weight, dict) for weight in weights or ()):
            raise RuntimeError(f"lora_hotswap: only the LoRA that was loaded, {loaded['name']}, can be set, as a whole")
        with lock:
            loaded["scale"] = 1.0 if not weights or weights[0] is None else float(weights[0])
            write()

    return load, unload, scale


def lora_hotswap(pipelines: dict[str, Any], *, most_rank: int) -> None:
    """Take the place of load_lora_weights(), unload_lora_weights() and set_adapters() of every pipeline."""
    loaded: dict[int, dict[str, Any]] = {}
    for pipeline in pipelines.values():
        if hasattr(pipeline, "enable_lora_hotswap") and (found := denoisers({"": pipeline})):
            lock = take_turns(pipelines, found[0])
            load, unload, scale = swapped_loras(pipeline, loaded.setdefault(id(found[0]), {}), most_rank, lock)
            # Past __setattr__, which registers components.
            vars(pipeline).update(load_lora_weights=load, unload_lora_weights=unload, set_adapters=scale)


def took_effect(pipelines: dict[str, Any], *, most_rank: int) -> str | None:
    """Whether a LoRA went this way."""
    return None if any(hasattr(each, "lora_hotswaps") for each in denoisers(pipelines)) else "no LoRA was loaded"


TECHNIQUE = Technique(
    name="lora_hotswap",
    axis=Axis.ADAPTERS,
    loss=Loss.REORDERED,
    summary="Exchanges LoRAs in the layers of the first one, filled up to one rank: nothing is compiled again.",
    source="https://huggingface.co/docs/diffusers/using-diffusers/loading_adapters#hotswapping-lora-adapters",
    parameters=LoraHotswapParameters,
    apply=lora_hotswap,
    took_effect=took_effect,
    refuses=refuses_without_loras,
    stage=Stage.WEIGHTS,
    roles=frozenset({Role.DENOISER}),
    adapters_later=(
        "LoRAs of the denoiser are loaded and unloaded by the pipelines' own methods, one at a time, up to this rank "
        "and in the layers of the first one; IP-Adapters as before."
    ),
    packages=("peft",),
    helpers=(torch_modules, denoisers, take_turns, swapped_loras),
)

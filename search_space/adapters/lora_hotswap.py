"""LoRAs that are exchanged in the layers of the first one: nothing is compiled or recorded again, whatever the rank.

diffusers' hot-swapping, with what it leaves to the product: it is switched on before the first LoRA, the layers stay
when a LoRA goes, with zeros in them, and the next one takes its place.
"""

from typing import Any, Literal

from .._modules import denoisers, text_encoders, torch_modules
from .._target import Role
from .._technique import Axis, Loss, Parameters, Stage, Technique
from .._turns import take_turns
from ._loras import LORA_HELPERS, put_in_place, refuse_lora_methods, refuse_other_loras, refuses_without_loras


class LoraHotswapParameters(Parameters):
    """most_rank: of any LoRA that will come. Smaller ones are filled up with zeros, and cost as much."""

    most_rank: Literal[16, 32, 64, 128] = 64


def swapped_loras(pipeline: Any, loaded: dict[str, Any], most_rank: int, lock: Any) -> dict[str, Any]:
    """{name: what takes the place of a pipeline's own method}.

    loaded: what all pipelines with this denoiser have loaded. lock: of the denoiser's pictures.
    """
    import torch

    own = "hotswap"
    loaded.update(name=None, ups=[], scale=1.0, first=False, loading=False)
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

    def no_other_lora() -> None:
        refuse_other_loras("lora_hotswap", [*denoisers({"": pipeline}), *text_encoders({"": pipeline})], own)

    def load(source: Any, adapter_name: Any = None, hotswap: bool = False, **kwargs: Any) -> None:
        if loaded["ups"] and not hotswap:
            raise RuntimeError("lora_hotswap: one LoRA at a time; unload the one before, or leave the technique out")
        tensors = pipeline.lora_state_dict(source.copy() if isinstance(source, dict) else source, **kwargs)
        tensors = tensors[0] if isinstance(tensors, tuple) else tensors
        if any(key.startswith("text_encoder") for key in tensors):
            raise RuntimeError("lora_hotswap: diffusers exchanges LoRAs of the denoiser only, and this one has more")
        with lock:
            no_other_lora()
            again = loaded["first"]
            if not again:
                switch_on(target_rank=most_rank, check_compiled="ignore")
            loaded["loading"] = True
            try:
                # Layers that were made in inference mode could not be written into outside of it.
                with torch.inference_mode(False), torch.no_grad():
                    if isinstance(source, dict):
                        source = {key: value.clone() for key, value in source.items()}
                    original(source, adapter_name=own, hotswap=again, **kwargs)
                    found = [(weight, weight.detach().clone()) for weight in ups()]
            except RuntimeError as error:
                if not again:
                    raise
                raise RuntimeError(
                    "lora_hotswap: this LoRA changes other layers than the first one that was loaded; load the one "
                    f"with most layers first, or leave the technique out ({error})"
                ) from error
            finally:
                loaded["loading"] = False
            loaded.update(name=adapter_name or "default_0", ups=found, scale=1.0, first=True)
        # In a dictionary, which is a note: a number would be a setting, and a bundle's code for another one.
        vars(denoiser).setdefault("lora_hotswaps", {"count": 0})["count"] += 1

    def unload(reset_to_overwritten_params: Any = None) -> None:
        with lock, torch.no_grad():
            no_other_lora()
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

    def active() -> list[str]:
        return [loaded["name"]] if loaded["ups"] else []

    def listed() -> dict[str, list[str]]:
        found = {name: active() for name, module in torch_modules(pipeline).items() if module is denoiser}
        return found if loaded["ups"] else {}

    return {
        "load_lora_weights": load,
        "unload_lora_weights": unload,
        "set_adapters": scale,
        "get_active_adapters": active,
        "get_list_adapters": listed,
    }


def let_only_own_load(denoiser: Any, loaded: dict[str, Any]) -> None:
    """Refuse what drives LoRAs past the technique, other than the loading which the technique itself asks for."""
    original = denoiser.load_lora_adapter
    refuse_lora_methods("lora_hotswap", denoiser)
    refused = denoiser.load_lora_adapter

    def load_lora_adapter(*args: Any, **kwargs: Any) -> Any:
        return (original if loaded["loading"] else refused)(*args, **kwargs)

    vars(denoiser)["load_lora_adapter"] = load_lora_adapter


def lora_hotswap(pipelines: dict[str, Any], *, most_rank: int) -> None:
    """Take the place of load_lora_weights(), unload_lora_weights() and set_adapters() of every pipeline."""
    loaded: dict[int, dict[str, Any]] = {}
    for pipeline in pipelines.values():
        if not hasattr(pipeline, "enable_lora_hotswap") or not (found := denoisers({"": pipeline})):
            continue
        readers = text_encoders({"": pipeline})
        if id(found[0]) not in loaded:
            refuse_other_loras("lora_hotswap", found, applying=True)
            let_only_own_load(found[0], loaded.setdefault(id(found[0]), {}))
        refuse_other_loras("lora_hotswap", readers, applying=True)
        lock = take_turns(pipelines, found[0])
        ways = swapped_loras(pipeline, loaded[id(found[0])], most_rank, lock)
        put_in_place("lora_hotswap", pipeline, found[0], [*found[1:], *readers], ways)


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
    helpers=(*LORA_HELPERS, let_only_own_load, swapped_loras),
)

"""LoRAs that are written into the weights: no layer is added, so nothing is compiled or recorded again."""

from typing import Any

from .._modules import denoisers, text_encoders, torch_modules
from .._target import Role
from .._technique import Axis, Loss, NoParameters, Stage, Technique, Trait
from .._turns import take_turns
from ._loras import LORA_HELPERS, put_in_place, refuse_other_loras, refuses_without_loras


def merged_loras(pipeline: Any, loaded: dict[str, Any], bases: dict[int, dict[str, Any]], lock: Any) -> dict[str, Any]:
    """{name: what takes the place of a pipeline's own method}.

    loaded: what all pipelines with this denoiser have loaded. bases: {module: {layer: what base_of keeps of it}}, of
    all pipelines: they may share modules. lock: of the denoiser's pictures.
    """
    import inspect
    import re

    import torch

    loaded.update(name=None, changes=[], scale=1.0)
    pair = re.compile(r"(.+?)\.(?:lora_A|lora\.down|lora_linear_layer\.down)(?:\.default)?\.weight")

    def renamed(key: str) -> str:
        """As newer files have it: diffusers gives kohya's attention layers the names of processors that are no more."""

        def layer(found: Any) -> str:
            if key.startswith("text_encoder"):
                return f".{found[1]}_proj.lora."
            return f".to_{found[1]}{'.0' if found[1] == 'out' else ''}.lora."

        return re.sub(r"\.to_(q|k|v|out)_lora\.", layer, key.replace(".processor.", "."))

    def module_and_layer(path: str) -> Any:
        for name in ("unet", "transformer", "text_encoder_2", "text_encoder"):
            module = getattr(pipeline, name, None)
            if path.startswith(f"{name}.") and module is not None:
                inside = path.removeprefix(f"{name}.")
                # Published files have a part that newer text encoders have not.
                for layer in (inside, inside.removeprefix("text_model.")):
                    try:
                        return name, module, layer, module.get_submodule(layer).weight
                    except AttributeError:
                        continue
        raise RuntimeError(f"lora_merge: the LoRA is for {path}, which the pipeline has not")

    def scale_of(name: str, path: str, rank: int, alphas: Any, metadata: Any) -> float:
        said = metadata or {}
        given = {key: alpha for key, alpha in (alphas or {}).items() if key.startswith(f"{name}.")}
        # Where all are the same, diffusers takes it for layers without one too; otherwise it finds newer files' only.
        mixed = len(set(given.values())) > 1 and f"{path}.alpha" not in given
        patterns = [said.get(f"{name}.{each}") for each in ("alpha_pattern", "rank_pattern", "use_dora")]
        if mixed or any(patterns):
            raise RuntimeError(
                "lora_merge: the LoRA has another scale in each layer, or is a DoRA, which is not merged"
            )
        alpha = said.get(f"{name}.lora_alpha", given.get(f"{path}.alpha", next(iter(given.values()), rank)))
        return float(alpha) / float(said.get(f"{name}.r", rank) if f"{name}.lora_alpha" in said else rank)

    def version(weight: Any) -> Any:
        """Another one after every write that torch sees; tensors that were made in inference mode have none."""
        return None if weight.is_inference() else weight._version

    def base_of(module: Any, layer: str, weight: Any) -> Any:
        """What is kept of a layer: its weight without any LoRA, the version that was left, and whose LoRA is in it."""
        kept = bases.setdefault(id(module), {}).setdefault(layer, {"base": None, "version": None, "owner": None})
        changed = kept["base"] is None or kept["version"] != version(weight)
        if kept["owner"] is None and changed:
            kept["base"] = weight.detach().clone()
        elif kept["owner"] not in (None, id(loaded)):
            raise RuntimeError("lora_merge: another pipeline has a LoRA in the same weights; unload that one before")
        elif changed:
            raise RuntimeError(
                f"lora_merge: the weights of {layer} were written to while a LoRA was in them, by load_state_dict say, "
                "and what they are without it is no longer known. Load the pipeline anew"
            )
        return kept

    def write() -> None:
        with lock, torch.no_grad():
            found = [base_of(module, layer, weight) for module, layer, weight, *_ in loaded["changes"]]
            for kept, (_, _, weight, down, up, factor) in zip(found, loaded["changes"], strict=True):
                base = kept["base"]
                up, down = (part.to(weight.device, torch.float32) for part in (up, down))
                change = up.flatten(1) @ down.flatten(1) * (factor * loaded["scale"])
                weight.copy_(base.float() + change.reshape(base.shape))
                kept.update(version=version(weight), owner=id(loaded))

    def no_other_lora() -> None:
        refuse_other_loras("lora_merge", [*denoisers({"": pipeline}), *text_encoders({"": pipeline})])

    def restore() -> None:
        no_other_lora()
        with lock, torch.no_grad():
            for kept, weight in [(base_of(*change[:3]), change[2]) for change in loaded["changes"]]:
                weight.copy_(kept["base"])
                kept.update(version=version(weight), owner=None)
            loaded.update(name=None, changes=[], scale=1.0)

    def load(source: Any, adapter_name: Any = None, hotswap: bool = False, **kwargs: Any) -> None:
        if loaded["changes"] and not hotswap:
            raise RuntimeError("lora_merge: one LoRA at a time; unload the one before, or leave the technique out")
        no_other_lora()
        given = source.copy() if isinstance(source, dict) else source
        config = getattr(getattr(pipeline, "unet", None), "config", None)
        found = pipeline.lora_state_dict(given, unet_config=config, **kwargs, return_lora_metadata=True)
        tensors, alphas, metadata = found if len(found) == 3 else (found[0], None, found[1])
        changes = []
        for key, down in tensors.items():
            if (match := pair.fullmatch(renamed(key))) is None:
                continue
            path = match[1]
            name, module, layer, weight = module_and_layer(path)
            other = key.replace("lora_A", "lora_B").replace(".down.", ".up.")
            factor = scale_of(name, path, down.shape[0], alphas, metadata)
            changes.append((module, layer, weight, down, tensors[other], factor))
        if 2 * len(changes) != sum(not key.endswith(".alpha") for key in tensors):
            raise RuntimeError(
                "lora_merge: the file has more than pairs of LoRA weights, and all of it would not be used"
            )
        with lock:
            restore()
            loaded.update(name=adapter_name or "default_0", changes=changes)
            try:
                write()
            except RuntimeError:
                loaded.update(name=None, changes=[])
                raise
        pipeline.lora_merges = getattr(pipeline, "lora_merges", 0) + 1

    def scale(names: Any, adapter_weights: Any = None) -> None:
        """In place of set_adapters()."""
        names, weights = ([one] if isinstance(one, (str, float, int)) else one for one in (names, adapter_weights))
        if list(names) != [loaded["name"]] or any(isinstance(weight, dict) for weight in weights or ()):
            raise RuntimeError(f"lora_merge: only the LoRA that was loaded, {loaded['name']}, can be set, as a whole")
        loaded["scale"] = 1.0 if not weights or weights[0] is None else float(weights[0])
        write()

    def active() -> list[str]:
        return [loaded["name"]] if loaded["changes"] else []

    def listed() -> dict[str, list[str]]:
        changed = {id(module) for module, *_ in loaded["changes"]}
        return {name: active() for name, module in torch_modules(pipeline).items() if id(module) in changed}

    encode = getattr(pipeline, "encode_prompt", None)
    takes = () if encode is None else inspect.signature(encode).parameters

    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(encode).bind_partial(*args, **kwargs).arguments if encode is not None else {}
        if (asked := given.get("lora_scale")) not in (None, 1.0) and loaded["changes"]:
            raise RuntimeError(
                f"lora_merge: a scale of {asked} cannot change a LoRA that is in the weights; leave it out of the "
                f"call, and use set_adapters({loaded['name']!r}, {asked}) before"
            )
        return encode(*args, **kwargs)  # type: ignore[misc]

    return {
        **({"encode_prompt": encode_prompt} if "lora_scale" in takes else {}),
        "load_lora_weights": load,
        "unload_lora_weights": restore,
        "set_adapters": scale,
        "get_active_adapters": active,
        "get_list_adapters": listed,
    }


def refuse_call_scale(denoiser: Any, loaded: dict[str, Any]) -> None:
    """RuntimeError where a call asks for a LoRA's scale and one is in the weights, with the scale that was set."""

    def check(module: Any, args: Any, kwargs: Any) -> None:
        for name in ("cross_attention_kwargs", "joint_attention_kwargs", "attention_kwargs"):
            scale = (kwargs.get(name) or {}).get("scale", 1.0)
            # In this order: compiled code depends on what it asked for, and has to stay when LoRAs come and go.
            if scale != 1.0 and loaded["changes"]:
                raise RuntimeError(
                    f"lora_merge: the scale in {name} cannot change a LoRA that is in the weights; leave it out of the "
                    f"call, and use set_adapters({loaded['name']!r}, {scale}) before"
                )

    denoiser.register_forward_pre_hook(check, with_kwargs=True)


def lora_merge(pipelines: dict[str, Any]) -> None:
    """Take the place of load_lora_weights(), unload_lora_weights() and set_adapters() of every pipeline."""
    bases: dict[int, dict[str, Any]] = {}
    loaded: dict[int, dict[str, Any]] = {}
    for pipeline in pipelines.values():
        if not hasattr(pipeline, "load_lora_weights") or not (found := denoisers({"": pipeline})):
            continue
        modules = [*found, *text_encoders({"": pipeline})]
        refuse_other_loras("lora_merge", modules, applying=True)
        lock, new = take_turns(pipelines, found[0]), id(found[0]) not in loaded
        ways = merged_loras(pipeline, loaded.setdefault(id(found[0]), {}), bases, lock)
        put_in_place("lora_merge", pipeline, found[0], modules, ways)
        if new:
            refuse_call_scale(found[0], loaded[id(found[0])])


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether a LoRA went this way."""
    return None if any(getattr(each, "lora_merges", 0) for each in pipelines.values()) else "no LoRA was loaded"


TECHNIQUE = Technique(
    name="lora_merge",
    axis=Axis.ADAPTERS,
    loss=Loss.REORDERED,
    summary="Writes each LoRA into the weights and takes it out exactly: nothing is added, and nothing compiled again.",
    source="https://arxiv.org/abs/2106.09685",
    parameters=NoParameters,
    apply=lora_merge,
    took_effect=took_effect,
    refuses=refuses_without_loras,
    stage=Stage.WEIGHTS,
    roles=frozenset({Role.DENOISER, Role.TEXT_ENCODER}),
    traits=frozenset({Trait.WRITES_WEIGHTS}),
    adapters_later=(
        "LoRAs are loaded and unloaded by the pipelines' own methods, one at a time; IP-Adapters as before. Weights "
        "that a LoRA changes are held twice."
    ),
    helpers=(*LORA_HELPERS, merged_loras, refuse_call_scale),
)

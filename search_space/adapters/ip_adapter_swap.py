"""IP-Adapters that come and go without being read, moved or compiled again.

diffusers reads an adapter anew each time, makes new attention processors and moves the whole U-Net. Here, what was
loaded once is kept, and put back.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique
from .._turns import take_turns
from .._visits import IP_ADAPTER


class IpAdapterSwapParameters(Parameters):
    """how: "stash" puts the processors of each adapter, or the plain ones, in their places: nothing is computed for an
    adapter that is not there, and each has graphs of its own. "in_place" keeps one set of processors and writes an
    adapter's weights into it, zeros for none: weights stay where they are, so that compiled and recorded code goes on
    as it is, and requests without an adapter compute one that adds nothing.
    """

    how: Literal["stash", "in_place"] = "stash"


def adapter_key(arguments: Any) -> Any:
    """What an adapter is loaded from, hashable: the same as before only where the file or the tensors are."""
    import os

    import torch

    if torch.is_tensor(arguments):
        if arguments.is_inference():
            raise RuntimeError(
                "ip_adapter_swap: the adapter's tensors were made in inference mode, where nobody sees that they "
                "change; make them under torch.inference_mode(False), or load the adapter from a file"
            )
        return ("tensor", arguments.data_ptr(), arguments._version, tuple(arguments.shape))
    if isinstance(arguments, dict):
        return tuple((name, adapter_key(value)) for name, value in arguments.items())
    if isinstance(arguments, (list, tuple)):
        return tuple(adapter_key(value) for value in arguments)
    if isinstance(arguments, (str, os.PathLike)):
        found = []
        for folder, _, files in os.walk(str(arguments)):
            found += [(name, os.stat(os.path.join(folder, name)).st_mtime_ns) for name in sorted(files)]
        if os.path.isfile(arguments):
            found.append((str(arguments), os.stat(arguments).st_mtime_ns))
        return (str(arguments), tuple(found))
    return arguments if arguments is None or isinstance(arguments, (bool, int, float)) else id(arguments)


def kept_adapters(unet: Any, how: str, lock: Any) -> Any:
    """load(pipeline, original, args, kwargs) and unload(pipeline, original) for this U-Net. lock: of its pictures."""
    import torch

    counts = {"loaded": 0, "swapped": 0, "unloaded": 0}
    unet.ip_adapter_swaps = counts
    if "encoder_hid_proj" in vars(unet) and unet.encoder_hid_proj is None:
        # As it is once an adapter has gone: compiled and recorded code would take the difference for a change.
        del unet.encoder_hid_proj
        unet.register_module("encoder_hid_proj", None)
    plain: dict[str, Any] = {}
    known: dict[Any, dict[str, Any]] = {}
    now: dict[str, Any] = {"off": False, "set": None}

    def others(processors: dict[str, Any]) -> dict[str, Any]:
        """The kinds of those that are no adapter's: of these, diffusers keeps the kind."""
        return {name: type(one) for name, one in processors.items() if not hasattr(one, "to_v_ip")}

    def fits(kept: dict[str, Any]) -> bool:
        """Whether the U-Net is still what the adapter was made for."""
        weight, found = next(kept["projection"].parameters()), unet.attn_processors
        if (weight.dtype, weight.device) != (unet.dtype, unet.device) or list(kept["processors"]) != list(found):
            return False
        return all(type(found[name]) is kind for name, kind in others(kept["processors"]).items())

    def plain_fits() -> bool:
        """Whether diffusers would put processors like the plain ones back: new ones of the kinds that are there, but
        without what was set for one alone, and its usual ones, or attention_backend's, in the place of an adapter's.
        """
        found = unet.attn_processors
        kept, usual = others(found), ("AttnProcessor2_0", "DispatchedAttnProcessor")
        return bool(plain) and all(
            not vars(one)
            and name in found
            and (type(one) is kept[name] if name in kept else type(one).__name__ in usual)
            for name, one in plain.items()
        )

    def in_their_places(kept: dict[str, Any]) -> bool:
        """Whether nobody has set other processors."""
        return all(layer.processor is one for layer, one in kept["places"])

    def own() -> bool:
        """Whether the one set of processors is in the U-Net; a pipeline that apply() was not given may have others."""
        kept = now["set"]
        return kept is not None and unet.encoder_hid_proj is kept["projection"] and in_their_places(kept)

    def put(processors: Any, projection: Any, kind: Any) -> None:
        # The projection first: some have processors of their own, which the U-Net would list.
        unet.encoder_hid_proj = projection
        unet.set_attn_processor(dict(processors))
        unet.config.encoder_hid_dim_type = kind

    def modules(kept: dict[str, Any]) -> list[Any]:
        """Those that have an adapter's weights."""
        found = [one for one in kept["processors"].values() if hasattr(one, "to_v_ip")]
        return [*found, kept["projection"]]

    def tensors(kept: dict[str, Any]) -> list[Any]:
        return [weight for module in modules(kept) for weight in (*module.parameters(), *module.buffers())]

    def fresh_scale(kept: dict[str, Any]) -> None:
        """As after loading: the scale that was set for the adapter before is not this one's."""
        for one in modules(kept):
            if hasattr(one, "scale"):
                one.scale = [1.0] * len(one.scale)

    def write(kept: dict[str, Any], values: Any) -> None:
        with torch.no_grad():
            for weight, value in zip(tensors(kept), values, strict=True):
                weight.copy_(value)

    def zero(kept: dict[str, Any]) -> None:
        with torch.no_grad():
            for one in modules(kept):
                for layer in getattr(one, "to_v_ip", ()):
                    layer.weight.zero_()

    def take(pipeline: Any, key: Any, source: Any) -> dict[str, Any]:
        """Keep what was loaded just now. source: what it was loaded from, whose tensors stay as long as the key."""
        kept = {"processors": dict(unet.attn_processors), "projection": unet.encoder_hid_proj, "source": source}
        kept["components"] = {
            name: getattr(pipeline, name) for name in ("image_encoder", "feature_extractor") if hasattr(pipeline, name)
        }
        kept["places"] = [
            (unet.get_submodule(name.removesuffix(".processor")), one) for name, one in kept["processors"].items()
        ]
        if how == "in_place":
            # diffusers may take the tensors that it was given, and those are not ours to write into. Nor could those of
            # the inference mode be written into outside of it.
            with torch.inference_mode(False), torch.no_grad():
                for layer in [layer for module in modules(kept) for layer in module.modules()]:
                    for name, weight in [item for item in layer._parameters.items() if item[1] is not None]:
                        layer._parameters[name] = torch.nn.Parameter(weight.detach().clone(), weight.requires_grad)
                    for name, value in [item for item in layer._buffers.items() if item[1] is not None]:
                        layer._buffers[name] = value.clone()
                kept["values"] = [weight.detach().clone() for weight in tensors(kept)]
        known[key] = kept
        return kept

    def register(pipeline: Any, components: dict[str, Any]) -> None:
        for name, component in components.items():
            if getattr(pipeline, name, None) is None and component is not None:
                pipeline.register_modules(**{name: component})

    def no_copy(pipeline: Any) -> None:
        """RuntimeError for a copy of a pipeline, which has a U-Net of its own."""
        if getattr(pipeline.unet, "_orig_mod", pipeline.unet) is not unet:
            raise RuntimeError(
                "ip_adapter_swap: this pipeline has another U-Net than apply() was given, as a copy of a pipeline has; "
                "load the pipeline anew and call apply() on it"
            )

    def load(pipeline: Any, original: Any, args: Any, kwargs: Any) -> None:
        no_copy(pipeline)
        key = adapter_key((args, sorted(kwargs.items())))
        with lock:
            if unet.encoder_hid_proj is None:
                plain.update(unet.attn_processors)
            kept = known.get(key)
            if kept is None or not fits(kept):
                original(*args, **kwargs)
                kept = take(pipeline, key, (args, kwargs))
                counts["loaded"] += 1
                same = now["set"] is not None and fits(now["set"]) and alike(now["set"], kept)
                if how == "in_place" and same:
                    # Its own modules are not needed: only its weights, which the one set takes in turn.
                    kept.update({name: now["set"][name] for name in ("processors", "projection", "places")})
                    put(kept["processors"], kept["projection"], "ip_image_proj")
                    write(kept, kept["values"])
                    fresh_scale(kept)
                elif how == "in_place":
                    now["set"] = kept
            else:
                register(pipeline, kept["components"])
                target = now["set"] if how == "in_place" and alike(now["set"], kept) else kept
                put(target["processors"], target["projection"], "ip_image_proj")
                if how == "in_place":
                    write(target, kept["values"])
                    now["set"] = target
                fresh_scale(target)
                counts["swapped"] += 1
            now["off"] = False

    def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
        """Whether the weights of one fit into the other."""
        kinds = [[type(module).__name__ for module in modules(kept)] for kept in (one, other)]
        shapes = [[tuple(weight.shape) for weight in tensors(kept)] for kept in (one, other)]
        same = others(one["processors"]) == others(other["processors"])
        return same and kinds[0] == kinds[1] and shapes[0] == shapes[1]

    def unload(pipeline: Any, original: Any) -> None:
        no_copy(pipeline)
        with lock:
            in_place = own()
            if in_place and now["off"]:
                pass  # There is none.
            elif in_place and simple(unet.encoder_hid_proj) and plain_fits():
                zero(now["set"])
                now["off"] = True
                counts["unloaded"] += 1
            elif unet.encoder_hid_proj is not None and plain_fits():
                put(plain, None, None)
                now["off"] = False
                counts["unloaded"] += 1
            else:
                original()
                now["off"] = False
                return
            # As diffusers does.
            if getattr(pipeline, "image_encoder", None) is not None:
                pipeline.image_encoder = None
                pipeline.register_to_config(image_encoder=[None, None])
            has_checker = hasattr(pipeline, "safety_checker")
            if not has_checker and getattr(pipeline, "feature_extractor", None) is not None:
                pipeline.feature_extractor = None
                pipeline.register_to_config(feature_extractor=[None, None])

    def simple(projection: Any) -> bool:
        """Whether the embedding of an adapter that is not there is known to be one vector a picture."""
        return all(type(layer).__name__ == "ImageProjection" for layer in projection.image_projection_layers)

    def nothing(module: Any, args: Any, kwargs: Any) -> Any:
        """A request without an adapter passes no embedding; what the zeroed weights make of any is 0."""
        given = kwargs.get("added_cond_kwargs") or {}
        if not now["off"] or "image_embeds" in given or module.encoder_hid_proj is not now["set"]["projection"]:
            return None
        if not torch.compiler.is_compiling() and not in_their_places(now["set"]):
            raise RuntimeError(
                "ip_adapter_swap: attention processors were set after an IP-Adapter was unloaded, whose own have to "
                "stay with in_place; set them before the first adapter is loaded, or use how: stash"
            )
        sample = args[0] if args else kwargs["sample"]
        layers = module.encoder_hid_proj.image_projection_layers
        widths = [layer.image_embeds.in_features for layer in layers]
        embeds = [torch.zeros(sample.shape[0], 1, width, dtype=sample.dtype, device=sample.device) for width in widths]
        return args, {**kwargs, "added_cond_kwargs": {**given, "image_embeds": embeds}}

    if how == "in_place":
        unet.register_forward_pre_hook(nothing, with_kwargs=True)
    return load, unload


def ip_adapter_swap(pipelines: dict[str, Any], *, how: str) -> None:
    """Take the place of load_ip_adapter() and unload_ip_adapter() of every pipeline with a U-Net."""
    import functools

    def loaded(way: Any, pipeline: Any, original: Any, *args: Any, **kwargs: Any) -> None:
        way(pipeline, original, args, kwargs)

    ways: dict[int, Any] = {}
    for pipeline in pipelines.values():
        unet = getattr(pipeline, "unet", None)
        if not hasattr(pipeline, "load_ip_adapter") or all(unet is not one for one in denoisers(pipelines)):
            continue
        if id(unet) not in ways:
            ways[id(unet)] = kept_adapters(unet, how, take_turns(pipelines, unet))
        load, unload = ways[id(unet)]
        # Past __setattr__, which registers components.
        own = vars(pipeline)
        own["load_ip_adapter"] = functools.partial(loaded, load, pipeline, pipeline.load_ip_adapter)
        own["unload_ip_adapter"] = functools.partial(unload, pipeline, pipeline.unload_ip_adapter)


def took_effect(pipelines: dict[str, Any], *, how: str) -> str | None:
    """Whether adapters went this way."""
    counts = [getattr(unet, "ip_adapter_swaps", None) for unet in denoisers(pipelines)]
    if not any(counts):
        return "no pipeline with a U-Net loads IP-Adapters"
    return None if any(each and each["loaded"] for each in counts) else "no IP-Adapter was loaded"


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: IpAdapterSwapParameters) -> str | None:
    """Workloads in which no IP-Adapter comes or goes, and transformers."""
    if not any(denoiser.is_unet for pipeline in pipelines.values() for denoiser in pipeline.denoisers):
        return "no pipeline has a U-Net"
    if not any(pipeline.adapters and IP_ADAPTER in pipeline.adapter_kinds for pipeline in pipelines.values()):
        return "no request loads or unloads an IP-Adapter"
    return None


TECHNIQUE = Technique(
    name="ip_adapter_swap",
    axis=Axis.ADAPTERS,
    loss=Loss.BIT_IDENTICAL,
    summary="Keeps IP-Adapters that were loaded once, and swaps them in without reading or compiling again.",
    source="https://huggingface.co/docs/diffusers/using-diffusers/ip_adapter",
    parameters=IpAdapterSwapParameters,
    apply=ip_adapter_swap,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WEIGHTS,
    roles=frozenset({Role.DENOISER}),
    adapters_later="IP-Adapters are loaded and unloaded by the pipelines' own methods, as before.",
    helpers=(torch_modules, denoisers, take_turns, adapter_key, kept_adapters),
)

"""Whether what was written of live pipelines is what they are. Weights and configurations are kept, nothing else."""

import contextlib
import copy
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..search_space import module_structure, module_weights, torch_modules
from ._errors import UserError
from ._same_values import FUNCTIONS, SameValues, same_tensors
from ._source import Source, is_installed

IN_LOAD = "do that in a function load(device) that makes the pipelines, and give it in their place"
INSTEAD = "give a function load(device) that makes them in their place"
COPY = "paretune_workload_copy"
# What transformers notes when it saves: the class and the dtype of what was saved last with this configuration.
SAVED = ("config.architectures", "config.dtype")
# What module.compile() notes; what is left of a LoRA that was fused, and taken out; and what new tokens leave, which
# the embeddings say too.
NOTED = ("_compiled_call_impl", "lora_scale", "loras_gone", "vocab_size")
# What the steps of a scheduler leave, and the next call does not read.
LEFT = ("is_scale_input_called", "this_order", "timestep_list")


def refuse_adapters(name: str, entry: Any) -> None:
    """Raises UserError for an entry with a LoRA or an IP-Adapter, which save_pretrained leaves half of."""
    from diffusers.models.embeddings import MultiIPAdapterImageProjection

    for part, module in torch_modules(entry).items():
        place = f"{name}.{part}" if part else name
        if loras := getattr(module, "peft_config", None):
            raise UserError(
                f"{place} has a LoRA, {', '.join(loras)}, which cannot be written: take it out with "
                "unload_lora_weights(), and load it in run(), or in a function load(device) that makes the pipelines"
            )
        if isinstance(getattr(module, "encoder_hid_proj", None), MultiIPAdapterImageProjection):
            raise UserError(
                f"{place} has an IP-Adapter, which cannot be written: take it out with unload_ip_adapter(), and load "
                "it in run(), or in a function load(device) that makes the pipelines"
            )


def check_copy(live: Mapping[str, Any] | None, file: Path, source: Source) -> None:
    """Run what was written, load what it describes, and raise UserError with the first thing that is not what is live.

    live: the pipelines; None where `file` loads them as the user's own function does. source: what was written.
    """
    import torch

    module = ModuleType(COPY)
    module.__file__ = str(file)
    sys.modules[COPY] = module
    try:
        with torch.random.fork_rng(devices=[]):
            exec(compile(file.read_bytes(), str(file), "exec"), vars(module))
            again = {} if live is None else module.load("cpu")
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        what, instead = ("run()", "") if live is None else ("the pipelines", f": {INSTEAD}")
        raise UserError(
            f"what was written of {what} cannot be loaded ({type(error).__name__}: {reason}){instead}"
        ) from error
    finally:
        del sys.modules[COPY]
    names = {full: f"{COPY}.{name}" for full, name in source.written.items()}
    for name, one in source.made.items():
        same, other = SameValues(names), vars(module)[name]
        if found := same.of_class(name, one, other) if inspect.isclass(one) else same.difference(name, one, other):
            raise UserError(
                f"what was written of {name} is not what this session has: {found}, because only its source is "
                "written, and the values of the names in it as they are now. Define it again as it is to be"
            )
    seen = set()
    for name, entry in (live or {}).items():
        for kind in kinds_in(entry):
            if replaced := replaced_method(kind):
                raise UserError(
                    f"{name} would not be the same when it is loaded again: {kind.__name__}.{replaced} is not its "
                    f"package's, but was put there in this session: {IN_LOAD}"
                )
        for place, one, other in _parts(name, entry, again[name]):
            if id(one) in seen:
                continue
            seen.add(id(one))
            if found := _difference(one, other, names, isinstance(entry, torch.nn.Module)):
                raise UserError(
                    f"{place}{found} when it is loaded again, because only weights and configurations are written: "
                    f"{IN_LOAD}"
                )


def kinds_in(entry: Any) -> list[type]:
    """The classes that an entry and its parts are of, each once, those above them too."""
    import torch

    parts = [entry, *getattr(entry, "components", {}).values()]
    parts += [part for each in parts if not isinstance(each, torch.nn.Module) for part in _attributes(each).values()]
    layers = [layer for each in parts if isinstance(each, torch.nn.Module) for layer in each.modules()]
    found = [*parts, *layers, *(getattr(each, "processor", None) for each in layers)]
    return list(dict.fromkeys(kind for each in found for kind in type(each).__mro__))


def replaced_method(kind: type) -> str | None:
    """The name of a method of a package's class that is not the package's own; None where there is none."""
    if not is_installed(sys.modules.get(kind.__module__)):
        return None
    for name, value in vars(kind).items():
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        around = function.__globals__.get("__name__") if inspect.isfunction(function) else None
        if around is not None and not is_installed(sys.modules.get(around)):
            return name
    return None


def _attributes(value: Any) -> dict[str, Any]:
    return vars(value) if hasattr(value, "__dict__") and not isinstance(value, type) else {}


def _parts(name: str, entry: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """(name, what it is, what it is in the copy) of a pipeline's components and settings, or of a module."""
    if not hasattr(entry, "components"):
        yield name, entry, other
        return
    for part in {**entry.components, **vars(entry)}:
        # What a call leaves is private; and where weights lie is no part of what is computed.
        if isinstance(vars(entry).get(part), FUNCTIONS):
            if part not in vars(other):
                raise UserError(f"{name}.{part}: a function was put there, and will not be: {IN_LOAD}")
        elif not part.startswith("_") and part != "hf_device_map":
            yield f"{name}.{part}", getattr(entry, part), getattr(other, part, None)


def _difference(one: Any, other: Any, names: Mapping[str, str], is_plain: bool) -> str | None:
    """What is different in the copy, as it comes after a name; None where nothing is."""
    import torch

    if not isinstance(one, torch.nn.Module) or not isinstance(other, torch.nn.Module):
        return _first_of(_settings(one), _settings(other)) or _of_attributes(one, other, names)
    one = getattr(one, "_orig_mod", one)  # of torch.compile
    is_plain = is_plain and not hasattr(one, "save_pretrained")
    layers, again = _layers(one, names, is_plain), _layers(other, {}, is_plain)
    for path in {**layers, **again}:
        if path not in again or path not in layers:
            return f"{path}: this layer is {'not ' if path in layers else ''}there"
        if found := _first_of(layers[path], again[path]):
            return f"{path}{found}"
    weights, copied = module_weights(one), module_weights(other)
    for path in {**weights, **copied}:
        if path in weights and path in copied:
            if not same_tensors(weights[path], copied[path]):
                return f".{path}: this weight has other values or another dtype"
        elif is_plain or not path.rpartition(".")[2].startswith("_"):  # else what a call has left
            return f".{path}: this weight is {'not ' if path in weights else ''}there"
    return _of_layers(one, other, names) if is_plain else None


def _of_layers(one: Any, other: Any, names: Mapping[str, str]) -> str | None:
    """What is different in what the layers of a plain module keep that is neither a layer nor a weight."""
    import torch

    left_out, same, again = vars(torch.nn.Module()), SameValues(names), dict(other.named_modules())
    for path, layer in one.named_modules():
        kept = [
            {name: value for name, value in vars(each).items() if name not in left_out and name not in NOTED}
            for each in (layer, again[path])
        ]
        for name in {**kept[0], **kept[1]}:
            pair = (kept[0].get(name), kept[1].get(name))
            if not torch.is_tensor(pair[0]) and (found := same.difference(name, *pair)):
                return f"{'.' if path else ''}{path}: {found}"
    return None


def _of_attributes(one: Any, other: Any, names: Mapping[str, str]) -> str | None:
    """What is different in a scheduler, a tokenizer, a processor of pictures or a setting beside its configuration."""
    for name, value in _attributes(one).items():
        if isinstance(value, FUNCTIONS) and name not in _attributes(other):
            return f".{name}: a function was put there, and will not be"
    if hasattr(one, "get_vocab"):
        return _first_of(_of_tokenizer(one), _of_tokenizer(other))
    if hasattr(one, "set_timesteps"):
        one, other = _as_before_a_call(one), _as_before_a_call(other)
        for name in [name for name in vars(one) if name in vars(other)]:
            if name.startswith("_") or name in LEFT:
                continue
            if found := SameValues(names).difference(name, vars(one)[name], vars(other)[name]):
                return f": {found}"
        return None
    if hasattr(one, "config") or type(one).__module__.startswith("transformers."):
        return None
    found = SameValues(names).difference("it", one, other)
    return f": {found}" if found else None


def _of_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """What decides which tokens a text becomes; not how many there were in the last call."""
    names = ("padding_side", "truncation_side", "model_max_length", "special_tokens_map")
    said = {name: getattr(tokenizer, name, None) for name in names}
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        said |= {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation", "version")}
    return said | {"vocabulary": tokenizer.get_vocab()}


def _as_before_a_call(scheduler: Any) -> Any:
    """A copy of a scheduler in which nothing is left of the calls before, where it can be told how that is done."""
    kept = copy.deepcopy(scheduler)
    with contextlib.suppress(Exception):  # some take more than the steps, from what they are to make
        kept.set_timesteps(3)
    return kept


def _first_of(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    for name in {**one, **other}:
        if one.get(name) != other.get(name):
            said = [f"{each.get(name)}" for each in (one, other)]
            if max(map(len, said)) > 200:
                return f": {name} will be another one"
            return f": {name} is {said[0]}, and will be {said[1]}"
    return None


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of everything in a setting: configurations are lists of (name, value) themselves."""
    if isinstance(value, list) and value and all(isinstance(each, list) and len(each) == 2 for each in value):
        for key, item in value:
            yield from _flat(f"{name}.{key}", item)
    else:
        yield name, value


def _settings(value: Any) -> dict[str, Any]:
    """A scheduler, a processor of pictures, a number: its class and its configuration, as plain data."""
    config = getattr(value, "config", None)
    said: dict[str, Any] = {"class": f"{type(value).__module__}.{type(value).__qualname__}"}
    if isinstance(config, Mapping):
        said |= {name: item for name, item in config.items() if not name.startswith("_")}
    elif isinstance(value, (bool, int, float, str)):
        said["value"] = value
    plain: dict[str, Any] = json.loads(json.dumps(said, default=lambda item: type(item).__qualname__))
    return plain


def _layers(module: Any, names: Mapping[str, str], is_plain: bool) -> dict[str, dict[str, Any]]:
    """{path: what a layer is} of a module and all in it; its classes called as in the copy, by `names`."""
    import torch

    # Of the module itself its structure has little: it has to be a layer of another one.
    around = torch.nn.ModuleList([module])
    layers = dict(around.named_modules(remove_duplicate=False))
    found = {}
    for path, kind, settings, *processor, hooks in module_structure(around)[1:]:
        kept = vars(layers[path])
        settings = [item for item in settings if not _is_left_out(item[0], kept, is_plain)]
        settings += [[f"processor.{name}", item] for each in processor for name, item in each]
        said = [["class", kind], *settings, ["hooks", hooks]]
        flat = [each for item in said for each in _flat(*item) if each[0] not in SAVED]
        found[path[1:]] = _renamed(dict(flat), names)
    return found


def _is_left_out(name: str, kept: Mapping[str, Any], is_plain: bool) -> bool:
    """Whether a layer's attribute says nothing of what it computes when it has been loaded."""
    if name in NOTED or ("_hf_hook" in kept and name in ("forward", "_old_forward")):
        return True  # the latter of accelerate, which moves weights to the GPU and back
    if is_plain:
        return False
    # from_pretrained() leaves modules as they are used: training is off. What libraries call private is what a call has
    # left, apart from functions that somebody has put into the places of a layer's own.
    return name == "training" or (name.startswith("_") and name != "_internal_dict" and not callable(kept.get(name)))


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _renamed(item, names) for name, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    for full, name in names.items() if isinstance(value, str) else ():
        if value == full or value.startswith(f"{full}."):
            return name + value.removeprefix(full)
    return value

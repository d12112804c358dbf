"""What code that was compiled from a module takes for granted: everything of it but the numbers in its weights.

Exported with the techniques that compile, as the functions of `_modules` are.
"""

from typing import Any

from ._call_shape import described_tensor
from ._module_state import module_state


def module_structure(module: Any) -> list[Any]:
    """Layers, their classes, settings, processors and hooks, as plain data: equal for modules that compute the same.

    Of the module itself only what its class says: what techniques note on it, and hooks on it, lie outside of the code.
    """
    import enum
    import functools
    import types

    import torch

    # What torch.nn.Module keeps on itself, hooks apart; and traces of an adapter that was fused, paths, notes.
    left_out = set(vars(torch.nn.Module())) - {"training"} | {
        "name_or_path",
        "peft_config",
        "loras_gone",
        "compiled_parts",
    }
    # The first call of a text encoder puts hooks on its layers, which only look. Where that call is answered by loaded
    # code they never come, and the module has to be the same as the one that was built from, where they did.
    left_out.add("_output_capturing_hooks_installed")
    only_looking = "transformers.utils.output_capturing"
    nothing = object()

    def plain(value: Any, dictionaries: bool) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (torch.dtype, enum.Enum)):
            return str(value)
        if isinstance(value, (list, tuple)):
            found = [plain(item, dictionaries) for item in value]
            return nothing if any(item is nothing for item in found) else found
        if isinstance(value, dict) and dictionaries:
            named = [[str(name), plain(item, True)] for name, item in value.items() if not str(name).startswith("_")]
            return [each for each in named if each[1] is not nothing]
        if isinstance(value, torch.nn.Module) or torch.is_tensor(value):
            return nothing  # a layer of its own, or a weight
        if isinstance(value, functools.partial) and dictionaries:
            return [plain(value.func, True), written([*value.args, *value.keywords.values()])]
        if callable(value) and hasattr(value, "__qualname__"):
            name = f"{value.__module__}.{value.__qualname__}"
            enclosed = [cell.cell_contents for cell in getattr(value, "__closure__", None) or () if cell_is_full(cell)]
            with_it = written([*enclosed, *(getattr(value, "__defaults__", None) or ())])
            return ([name, with_it] if with_it else name) if dictionaries else nothing
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):  # transformers' configuration
            said = {name: item for name, item in value.to_dict().items() if name != "transformers_version"}
            return plain({**said, "attention": getattr(value, "_attn_implementation", None)}, True)
        return f"{type(value).__module__}.{type(value).__qualname__}"

    def cell_is_full(cell: Any) -> bool:
        try:
            _ = cell.cell_contents
        except ValueError:
            return False
        return True

    def written(values: Any) -> list[Any]:
        """What of the values that a function has with it is a number or a text, and the names of functions."""
        kinds = (bool, int, float, str, torch.dtype, enum.Enum)
        named = [value.__qualname__ if isinstance(value, types.FunctionType) else value for value in values]
        return [plain(value, True) for value in named if isinstance(value, kinds)]

    def of_processor(processor: Any) -> list[Any]:
        """Its settings, those of the objects that these are, and what its call reads of its module."""
        found = settings(processor, True)
        found += [[type(each).__qualname__, settings(each, True)] for each in processor_parts(processor)[1:]]
        code = getattr(type(processor).__call__, "__code__", None)
        around = getattr(type(processor).__call__, "__globals__", {})
        read = {name: around[name] for name in getattr(code, "co_names", ()) if name in around}
        return [*found, *([name, said] for name, value in sorted(read.items()) for said in written([value]))]

    def settings(owner: Any, dictionaries: bool) -> list[Any]:
        found = []
        for name, value in sorted(vars(owner).items()):
            if name in left_out or name.startswith(("_hf_", "_is_hf")):
                continue
            said = plain(value, dictionaries or name == "_internal_dict")
            if said is not nothing and said is not None:  # switched off is as good as never there
                found.append([name, said])
        return found

    rows = []
    for path, each in module.named_modules(remove_duplicate=False):
        row = [path, f"{type(each).__module__}.{type(each).__qualname__}", settings(each, bool(path))]
        if (processor := plain_processor(each)) is not None:
            row.append(of_processor(processor))
        if path:
            hooks = [*each._forward_pre_hooks.values(), *each._forward_hooks.values()]
            hooks = [hook for hook in hooks if getattr(hook, "__module__", "") != only_looking]
            row.append([getattr(hook, "__qualname__", type(hook).__qualname__) for hook in hooks])
        rows.append(row)
    return rows


def plain_processor(layer: Any) -> Any:
    """A layer's attention processor, where that is no module and has attributes; None otherwise."""
    import torch

    processor = getattr(layer, "processor", None)
    return None if isinstance(processor, torch.nn.Module) or not hasattr(processor, "__dict__") else processor


def processor_parts(processor: Any) -> list[Any]:
    """What plain_processor gives, and the objects below it that have attributes, three deep. Pipelines
    and schedulers, which change with each step, are not among them.
    """
    import types

    import torch

    of_others = (torch.nn.Module, torch.Tensor, type, types.ModuleType, types.FunctionType, types.MethodType)
    found, level = [processor], [processor]
    for _ in range(3):
        values = [value for each in level for value in vars(each).values()]
        level = [each for each in values if hasattr(each, "__dict__") and not isinstance(each, of_others)]
        level = [each for each in level if not hasattr(each, "config_name")]
        found += level
    return found


def unseen_tensor(module: Any) -> str | None:
    """A tensor that code would keep as it is, because it belongs to no layer: what it lies in, or None."""
    import torch

    for path, each in module.named_modules():
        processor = plain_processor(each)
        for part in () if processor is None else processor_parts(processor):
            for name, value in vars(part).items():
                if torch.is_tensor(value):
                    return f"{name} of the attention processor of {path}"
    return None


def module_weights(module: Any) -> dict[str, Any]:
    """{name: tensor} of parameters, buffers, and tensors that are attributes, as they are now."""
    import torch

    found = dict(module.named_parameters(remove_duplicate=False))
    found.update(module.named_buffers(remove_duplicate=False))
    for path, each in module.named_modules(remove_duplicate=False):
        for name, value in vars(each).items():
            if torch.is_tensor(value):
                found[f"{path}.{name}" if path else name] = value
    return found


def watched_structure(module: Any) -> Any:
    """A function that returns (a hash of what the module is, its weights, what module_state says): the same objects as
    long as nothing has changed that compiled or recorded code would not see. That takes up to a millisecond for the
    2,000 layers of SDXL's U-Net, which are compared in C; after a change, some tens of milliseconds.
    """
    import hashlib
    import json
    import threading

    import torch

    look = module_state(module)
    turn = threading.Lock()
    known: dict[str, Any] = {}
    # Layers without a setting that anybody changes: that they still have as many attributes is enough.
    simple = (
        torch.nn.Linear,
        torch.nn.Embedding,
        torch.nn.Dropout,
        torch.nn.Identity,
        torch.nn.SiLU,
        torch.nn.GELU,
        torch.nn.ModuleList,
    )

    own = set(vars(torch.nn.Module())) | {"compiled_parts", "_internal_dict"}  # seen elsewhere, a note, or frozen

    def attributes() -> tuple[list[Any], list[Any]]:
        """The dictionaries in which layers, processors and transformers' configurations keep their settings, and those
        of the modules that processors are written in.
        """
        layers = [each for each in module.modules() if type(each) not in simple]
        kept = [vars(each).get(name) for each in layers for name in ("processor", "config")]
        processors = [found for each in layers if (found := plain_processor(each)) is not None]
        parts = [part for each in processors for part in processor_parts(each)]
        owners = {id(each): each for each in [*layers, *kept, *parts] if hasattr(each, "__dict__")}
        # What a call of theirs reads of its own module may change as well.
        calls = [type(each).__call__ for each in parts if callable(each)]
        read = {id(found): found for each in calls if (found := getattr(each, "__globals__", None))}
        return list(map(vars, owners.values())), list(read.values())

    def opened(value: Any) -> Any:
        """A copy of a list or a dictionary, whose content may change while it stays the same object."""
        if isinstance(value, dict):
            return {name: opened(item) for name, item in value.items()}
        return [opened(item) for item in value] if type(value) is list else value

    def within() -> list[Any]:
        """What is in the lists and dictionaries among the settings."""
        return list(map(opened, known["containers"]))

    def unchanged() -> bool:
        # Dictionaries are equal where they hold the same objects, which is seen in C.
        try:
            same = known["attributes"] == known["copies"] and known["lengths"] == list(map(len, known["every"]))
            same = same and known["classes"] == list(map(type, known["modules"])) and known["inside"] == within()
        except (RuntimeError, ValueError):  # other tensors or arrays, which have no single answer
            return False
        return same and all(kept.get(name) is one for kept, name, one in known["single"])

    def now() -> Any:
        with turn:  # two threads may share a module
            return found()

    def found() -> Any:
        state = look()
        made_of = (state[0], *state[3:])
        if not known or made_of != known["made_of"] or not unchanged():
            owned, read = attributes()
            known["attributes"] = [*owned, *read]
            known["copies"] = [dict(each) for each in known["attributes"]]
            # A tensor of one number equals another one of the same number, which is another weight all the same.
            named = [(each, *item) for each in known["attributes"] for item in each.items()]
            known["single"] = [each for each in named if torch.is_tensor(each[2]) and each[2].numel() == 1]
            # On the module itself, dictionaries are notes.
            known["containers"] = [
                item
                for each in owned
                for name, item in each.items()
                if name not in own and isinstance(item, list if each is vars(module) else (dict, list))
            ]
            known["inside"] = within()
            known["modules"] = list(module.modules())
            known["classes"] = list(map(type, known["modules"]))
            known["every"] = list(map(vars, known["modules"]))
            known["lengths"] = list(map(len, known["every"]))
            known["layers"] = json.dumps(module_structure(module))
            known["made_of"] = (list(state[0]), *state[3:])
            known.pop("state", None)
        if state != known.get("state"):
            known["state"] = state
            weights = module_weights(module)
            first: dict[int, str] = {}
            said = {
                # Tensors that are one tensor are one argument of the code.
                name: [described_tensor(tensor), first.setdefault(id(tensor), name)]
                for name, tensor in weights.items()
            }
            text = known["layers"] + json.dumps(said)
            known["found"] = (hashlib.sha256(text.encode()).hexdigest(), weights, state)
        return known["found"]

    return now


WATCHING = (
    module_state,
    described_tensor,
    plain_processor,
    processor_parts,
    module_structure,
    module_weights,
    watched_structure,
)
"""What a technique that calls watched_structure() names among its helpers."""

"""What recorded code depends on without looking at it: where a module's weights lie, and which parts it has.

Exported with the techniques that use it, as the functions of `_modules` are.
"""

from typing import Any


def module_state(module: Any) -> Any:
    """A function that returns what `module` is made of now: the same object, as long as nothing was changed that code
    recorded from it could not follow, and otherwise an equal one only where everything is as it was then.

    Changed are: a weight that lies elsewhere or is another one (moved, replaced, converted), a layer or an attention
    processor that was added, exchanged or taken away (LoRA, IP-Adapters), a hook, the scale of an adapter. Values that
    were written into a weight in place are no change: recorded code reads them. For the 2,000 layers of SDXL's U-Net a
    call takes half a millisecond of a slow processor (benchmarks/call_overhead.py): everything is compared in C with
    what was found before. That holds on to weights that were replaced, until the next call.
    """
    import copy
    from itertools import chain

    import torch

    known: dict[str, Any] = {}

    def walk() -> None:
        """Look up the dictionaries in which modules keep things; they stay the same while things in them change."""
        modules = list(module.modules())
        known["children"] = [each._modules for each in modules if each._modules]
        known["layers"] = list(map(dict, known["children"]))
        known["tensors"] = [kept for each in modules for kept in (each._parameters, each._buffers) if kept]
        known["hooks"] = [hooks for each in modules for hooks in (each._forward_hooks, each._forward_pre_hooks)]
        # Attention processors need not be modules.
        known["attributes"] = [vars(each) for each in modules if "processor" in vars(each)]
        adapters = [each for each in modules if hasattr(each, "scaling") and hasattr(each, "_active_adapter")]
        processors = [getattr(each, "processor", None) for each in modules]
        known["adapters"] = [vars(each) for each in adapters]
        known["scales"] = [vars(each) for each in processors if hasattr(each, "scale")]
        known["parts"] = list(map(id, chain.from_iterable(map(dict.values, known["layers"]))))
        gather()

    def gather() -> None:
        """Note which tensors there are."""
        weights = [tensor for kept in known["tensors"] for tensor in kept.values() if tensor is not None]
        plain = (torch.nn.Parameter, torch.Tensor, type(None))
        known["plain"] = all(type(tensor) in plain for tensor in weights)
        known["weights"] = weights
        # Dictionaries are equal where they hold the same objects, which is seen in C. Only where one of them is another
        # are the two compared: for tensors of several numbers that has no answer, but an error. The others are apart.
        large = [
            all(type(one) in plain and (one is None or one.numel() > 1) for one in kept.values())
            for kept in known["tensors"]
        ]
        known["large"] = [kept for kept, is_large in zip(known["tensors"], large, strict=True) if is_large]
        known["large_then"] = list(map(dict, known["large"]))
        known["small"] = [kept for kept, is_large in zip(known["tensors"], large, strict=True) if not is_large]
        known["small_then"] = [tuple(kept.items()) for kept in known["small"]]
        known.pop("values", None)

    def same_tensors() -> bool:
        try:
            if known["large"] != known["large_then"]:
                return False
        except Exception:  # what comparing tensors of several numbers ends in; of two devices, of two shapes, as well
            return False
        return all(
            len(kept) == len(then) and all(kept.get(name) is one for name, one in then)
            for kept, then in zip(known["small"], known["small_then"], strict=True)
        )

    def adapter_values() -> list[Any]:
        names = ("scaling", "_active_adapter", "_disable_adapters", "merged_adapters")
        found = [tuple(kept.get(name) for name in names) for kept in known["adapters"]]
        return found + [kept.get("scale") for kept in known["scales"]]

    def put(hooks: list[Any]) -> list[Any]:
        """The functions themselves: one may be taken away and another one put in its place."""
        return [[*each.values()] for each in hooks]

    def pointers(tensor: Any) -> Any:
        """Where a tensor's numbers lie; a quantized one consists of several."""
        if hasattr(tensor, "__tensor_flatten__"):
            return tuple(pointers(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
        return tensor.data_ptr()

    def state() -> Any:
        if not known or known["children"] != known["layers"]:
            walk()
        elif not same_tensors():
            gather()
        values = (
            list(map(torch.Tensor.data_ptr if known["plain"] else pointers, known["weights"])),
            # The hooks that there are, where there were some, and whether there are any elsewhere.
            None if "values" not in known else (put(known["hooked"]), any(known["unhooked"])),
            [id(kept.get("processor")) for kept in known["attributes"]],
            adapter_values() if known["adapters"] or known["scales"] else [],
        )
        if "values" in known and values == known["values"]:
            return known["state"]
        known["hooked"] = [hooks for hooks in known["hooks"] if hooks]
        known["unhooked"] = [hooks for hooks in known["hooks"] if not hooks]
        adapters = copy.deepcopy(values[3])
        known["values"] = (values[0], (put(known["hooked"]), False), values[2], adapters)
        ids = list(map(id, known["weights"]))
        known["state"] = (known["parts"], ids, values[0], put(known["hooks"]), values[2], adapters)
        return known["state"]

    return state


def weight_writes(module: Any) -> Any:
    """A function that returns equal values as long as nobody has written into the weights of `module` where they lie,
    as load_state_dict and fuse_lora do. For what keeps copies of weights, or of what was computed with them.

    Not seen is what goes past torch's versions, as `weight.data.mul_(2)` does, other than peft.
    """

    def look() -> Any:
        # peft goes past the versions when it fuses; diffusers leaves this attribute where a LoRA was unloaded, fused or
        # not. Counted on the module, because several may look.
        kept = vars(module)
        if kept.get("_hf_peft_config_loaded", "never") is None:
            del kept["_hf_peft_config_loaded"]
            kept["loras_gone"] = kept.get("loras_gone", 0) + 1
        # Tensors that were made in inference mode count no versions.
        return kept.get("loras_gone", 0), [w._version for w in module.parameters() if not w.is_inference()]

    return look


def stays_as_it_is(name: str, module: Any) -> Any:
    """For `watch`: whether `module` has the layers, weights, processors and adapters of its first call. What traced or
    built code of it, for the technique `name`, would not follow anything else.

    Where weights lie may change.
    """
    look, writes = module_state(module), weight_writes(module)
    first: list[Any] = []

    def holds() -> str | None:
        parts, weights, _, _, processors, adapters = look()
        now = (parts, weights, processors, adapters, writes())
        if not first:
            first.append(now)
        elif now != first[0]:
            return (
                f"{name}: layers of the {type(module).__name__} were changed after its first call, by an adapter say, "
                f"and what {name} has made of it would ignore that. Load the pipeline anew, change it, and then call "
                "apply()"
            )
        return None

    return holds

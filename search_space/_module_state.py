"""What recorded code depends on without looking at it: where a module's weights lie, and which parts it has.

Exported with the techniques that use it, as the functions of `_modules` are.
"""

from typing import Any


def module_state(module: Any) -> Any:
    """A function that returns what `module` is made of now: equal values, as long as nothing was changed that code
    recorded from it could not follow.

    Changed are: a weight that lies elsewhere or is another one (moved, replaced, converted), a layer or an attention
    processor that was added, exchanged or taken away (LoRA, IP-Adapters), a hook, the scale of an adapter. Values that
    were written into a weight in place are no change: recorded code reads them. A call costs a few tenths of a
    millisecond for the 2,000 modules of SDXL's U-Net; the lists are walked in C for that reason.
    """
    import copy
    from itertools import chain

    import torch

    known: dict[str, Any] = {}

    def walk() -> None:
        """Look up the dictionaries in which modules keep things; they stay the same while things in them change."""
        modules = list(module.modules())
        known["modules"] = modules
        known["children"] = [each._modules for each in modules if each._modules]
        known["tensors"] = [kept for each in modules for kept in (each._parameters, each._buffers) if kept]
        kinds = {type(tensor) for kept in known["tensors"] for tensor in kept.values()}
        known["plain"] = kinds <= {torch.nn.Parameter, torch.Tensor, type(None)}
        known["hooks"] = [hooks for each in modules for hooks in (each._forward_hooks, each._forward_pre_hooks)]
        # Attention processors need not be modules.
        known["attributes"] = [vars(each) for each in modules if "processor" in vars(each)]
        adapters = [each for each in modules if hasattr(each, "scaling") and hasattr(each, "_active_adapter")]
        processors = [getattr(each, "processor", None) for each in modules]
        known["adapters"] = [vars(each) for each in adapters]
        known["scales"] = [vars(each) for each in processors if hasattr(each, "scale")]

    def adapter_values() -> list[Any]:
        names = ("scaling", "_active_adapter", "_disable_adapters", "merged_adapters")
        found = [tuple(kept.get(name) for name in names) for kept in known["adapters"]]
        return found + [kept.get("scale") for kept in known["scales"]]

    def pointers(tensor: Any) -> Any:
        """Where a tensor's numbers lie; a quantized one consists of several."""
        if hasattr(tensor, "__tensor_flatten__"):
            return tuple(pointers(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
        return tensor.data_ptr()

    def parts() -> list[int]:
        return list(map(id, chain.from_iterable(map(dict.values, known["children"]))))

    def state() -> Any:
        if not known or parts() != known["parts"]:
            walk()
            known["parts"] = parts()
        tensors = [tensor for tensor in chain.from_iterable(map(dict.values, known["tensors"])) if tensor is not None]
        return (
            known["parts"],
            list(map(id, tensors)),
            list(map(torch.Tensor.data_ptr if known["plain"] else pointers, tensors)),
            list(map(len, known["hooks"])),
            [id(kept.get("processor")) for kept in known["attributes"]],
            copy.deepcopy(adapter_values()) if known["adapters"] or known["scales"] else [],
        )

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

"""What a call is like, without its numbers: what compiled code, which checks nothing itself, was made for.

Exported with the techniques that compile, as the functions of `_modules` are.
"""

from typing import Any


def call_key(value: Any, tensors: list[Any]) -> Any:
    """The structure of an argument, hashable; its tensors are taken out into `tensors`, in order.

    Raises TypeError for an argument whose changes would not be seen.
    """
    import torch

    if torch.is_tensor(value):
        tensors.append(value)
        return (value.shape, value.stride(), value.dtype, value.device, type(value))
    if isinstance(value, dict):
        return (type(value), tuple([(name, call_key(item, tensors)) for name, item in value.items()]))
    if type(value) in (list, tuple):
        return (type(value), tuple([call_key(item, tensors) for item in value]))
    # With its type, because 1, 1.0 and True are equal.
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device)):
        return (type(value), value)
    raise TypeError(f"an argument is a {type(value).__name__}")


def described_tensor(tensor: Any) -> dict[str, Any]:
    """Everything about a tensor but its numbers and its place in memory, as plain data."""
    import torch

    said: dict[str, Any] = {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype),
        "device": str(tensor.device),
    }
    if hasattr(tensor, "__tensor_flatten__") and type(tensor) is not torch.Tensor:  # quantized: it consists of several
        names, more = tensor.__tensor_flatten__()
        return {
            **said,
            "class": f"{type(tensor).__module__}.{type(tensor).__qualname__}",
            "parts": {name: described_tensor(getattr(tensor, name)) for name in names},
            "settings": str(more),
        }
    return {**said, "stride": list(tensor.stride())}


def described(value: Any, tensors: list[Any]) -> Any:
    """The structure of an argument, or of a result, as plain data; its tensors are taken out into `tensors`.

    Raises TypeError for what cannot be put together again from that.
    """
    import torch

    if torch.is_tensor(value):
        tensors.append(value)
        return {"tensor": len(tensors) - 1, **described_tensor(value)}
    if hasattr(value, "__dataclass_fields__"):  # diffusers' and transformers' results, which are dictionaries too
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        if name.partition(".")[0] not in ("diffusers", "transformers"):
            raise TypeError(f"a {name} cannot be put together again")
        fields = dict(value.items()) if isinstance(value, dict) else vars(value)
        return {"class": name, "fields": {field: described(item, tensors) for field, item in fields.items()}}
    if type(value) is dict:
        return {"dict": [[name, described(item, tensors)] for name, item in value.items()]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [described(item, tensors) for item in value]}
    if value is None or type(value) in (bool, int, float, str):
        return {"value": value}
    if isinstance(value, (torch.dtype, torch.device)):
        return {type(value).__name__: str(value)}
    raise TypeError(f"a {type(value).__name__} cannot be put together again")


def named_differences(wanted: Any, built: Any, where: str = "") -> list[str]:
    """What differs between two structures that `described` gave, a phrase each, beginning with where it is."""
    kind = next((kind for kind in ("tensor", "dict", "list", "tuple") if kind in wanted and kind in built), None)
    if wanted == built:
        return []
    if kind == "tensor":
        unlike = [name for name in {**wanted, **built} if wanted.get(name) != built.get(name) and name != "tensor"]
        # Strides follow from the shape.
        unlike = [name for name in unlike if name != "stride" or "shape" not in unlike]
        return [f"{where}: {name} {wanted.get(name)}, not {built.get(name)}" for name in unlike]
    if kind == "dict":
        ours, theirs = dict(wanted["dict"]), dict(built["dict"])
        path = f"{where}." if where else ""
        found = [
            f"{path}{name} is {'' if name in ours else 'not '}given"
            for name in {**ours, **theirs}
            if name not in ours or name not in theirs
        ]
        for name in ours:
            found += named_differences(ours[name], theirs[name], f"{path}{name}") if name in theirs else []
        return found or ([f"{where or 'arguments'}: another order"] if list(ours) != list(theirs) else [])
    if kind is not None and len(wanted[kind]) == len(built[kind]):
        pairs = enumerate(zip(wanted[kind], built[kind], strict=True))
        return [each for number, (one, other) in pairs for each in named_differences(one, other, f"{where}[{number}]")]

    def short(value: Any) -> str:
        name, said = next(iter(value.items()))
        if name in ("dict", "list", "tuple"):
            return f"a {name} of {len(said)}"
        return "a tensor" if name == "tensor" else repr(said)

    return [f"{where}: {short(wanted)}, not {short(built)}"]


def put_together(structure: Any, tensors: Any) -> Any:
    """The inverse of `described`, with other tensors."""
    import importlib

    import torch

    if "tensor" in structure:
        return tensors[structure["tensor"]]
    if "class" in structure:
        module, _, name = structure["class"].rpartition(".")
        if module.partition(".")[0] not in ("diffusers", "transformers"):
            raise RuntimeError(f"{structure['class']} is no result of diffusers or transformers")
        kind = getattr(importlib.import_module(module), name)
        return kind(**{field: put_together(item, tensors) for field, item in structure["fields"].items()})
    if "dict" in structure:
        return {name: put_together(item, tensors) for name, item in structure["dict"]}
    if "list" in structure:
        return [put_together(item, tensors) for item in structure["list"]]
    if "tuple" in structure:
        return tuple([put_together(item, tensors) for item in structure["tuple"]])
    if "dtype" in structure:
        return getattr(torch, structure["dtype"].removeprefix("torch."))
    return torch.device(structure["device"]) if "device" in structure else structure["value"]


def switches() -> tuple[Any, ...]:
    """The switches of the process that compiled code depends on without looking at them. Takes microseconds."""
    return tuple(described_switches().values())


def described_switches() -> dict[str, Any]:
    """The same with names, as plain data."""
    import torch

    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # said for each library by itself, in torch's newer way, which is below
        precision = "of each library"
    libraries: Any = torch.backends
    each = {
        "cuda_matmul_float32": libraries.cuda.matmul.fp32_precision,
        "cudnn_conv_float32": libraries.cudnn.conv.fp32_precision,
        "mkldnn_matmul_float32": libraries.mkldnn.matmul.fp32_precision,
        "mkldnn_conv_float32": libraries.mkldnn.conv.fp32_precision,
    }
    return {
        "float32_matmul_precision": precision,
        **{name: "ieee" if said == "none" else said for name, said in each.items()},
        "cudnn_benchmark": cudnn.benchmark,
        "fp16_accumulation": cuda.matmul.allow_fp16_accumulation,
        "fp16_reduction": str(cuda.matmul.allow_fp16_reduced_precision_reduction),
        "bf16_reduction": str(cuda.matmul.allow_bf16_reduced_precision_reduction),
        "flash_attention": cuda.flash_sdp_enabled(),
        "efficient_attention": cuda.mem_efficient_sdp_enabled(),
        "cudnn_attention": cuda.cudnn_sdp_enabled(),
        "math_attention": cuda.math_sdp_enabled(),
        "autocast_cuda": torch.is_autocast_enabled("cuda") and str(torch.get_autocast_dtype("cuda")),
        "autocast_cpu": torch.is_autocast_enabled("cpu") and str(torch.get_autocast_dtype("cpu")),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "default_dtype": str(torch.get_default_dtype()),
    }

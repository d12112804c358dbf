"""The same mathematics in another order. How far that alone moves pictures is the reordering floor.

Each is a plain function with public libraries and HELPERS only, as a technique's is: its source, with theirs, becomes
the apply.py of a process.
"""

import inspect
from typing import Any

from ._modules import denoisers, torch_modules


def other_attention(pipelines: dict[str, Any]) -> None:
    """Attention by another exact kernel than torch would choose."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    for denoiser in denoisers(pipelines):
        on_gpu = next(denoiser.parameters()).device.type == "cuda"
        inner = denoiser.forward

        def forward(*args: Any, _inner: Any = inner, _on_gpu: bool = on_gpu, **kwargs: Any) -> Any:
            with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION if _on_gpu else SDPBackend.MATH]):
                return _inner(*args, **kwargs)

        denoiser.forward = forward


def guidance_split(pipelines: dict[str, Any]) -> None:
    """The two halves of a guided batch in two calls."""
    import torch

    def part(value: Any, size: int, which: int) -> Any:
        if torch.is_tensor(value) and value.ndim and value.shape[0] == size:
            return value.chunk(2)[which]
        if isinstance(value, dict):
            return {key: part(item, size, which) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(part(item, size, which) for item in value)
        return value

    for denoiser in denoisers(pipelines):
        inner = denoiser.forward

        def forward(sample: Any, *args: Any, _inner: Any = inner, **kwargs: Any) -> Any:
            size = sample.shape[0]
            if size % 2:
                return _inner(sample, *args, **kwargs)
            kwargs = {**kwargs, "return_dict": False}
            halves = [_inner(part(sample, size, i), *part(args, size, i), **part(kwargs, size, i))[0] for i in (0, 1)]
            return (torch.cat(halves),)

        denoiser.forward = forward


def doubled_batch(pipelines: dict[str, Any]) -> None:
    """Every call with its batch twice, of which the second half is thrown away."""
    import torch

    def twice(value: Any, size: int) -> Any:
        if torch.is_tensor(value) and value.ndim and value.shape[0] == size:
            return torch.cat([value, value])
        if isinstance(value, dict):
            return {key: twice(item, size) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(twice(item, size) for item in value)
        return value

    for denoiser in denoisers(pipelines):
        inner = denoiser.forward

        def forward(sample: Any, *args: Any, _inner: Any = inner, **kwargs: Any) -> Any:
            size = sample.shape[0]
            kwargs = {**kwargs, "return_dict": False}
            (both,) = _inner(twice(sample, size), *twice(args, size), **twice(kwargs, size))[:1]
            return (both[:size],)

        denoiser.forward = forward


HELPERS = (torch_modules, denoisers)
VARIANTS = {
    "another attention kernel": other_attention,
    "guidance in two calls": guidance_split,
    "twice the batch": doubled_batch,
}


def reordering_sources() -> dict[str, str]:
    """{what is changed: the text of an apply.py that does it}."""
    return {words: _source(function) for words, function in VARIANTS.items()}


def _source(function: Any) -> str:
    functions = "\n\n".join(inspect.getsource(each) for each in (*HELPERS, function))
    return f"from typing import Any\n\n\n{functions}\n\napply = {function.__name__}\n"

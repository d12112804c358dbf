"""What serving a request has to give, looked at after every call, before anything is clamped or converted."""

from typing import Any

ACCEPTED = (
    "pictures have to come as a tensor (B, 3, H, W) of finite floats in [0, 1], as a list of PIL pictures, "
    "or as numpy arrays (B, H, W, 3) of floats in [0, 1] or of uint8"
)
TOLERANCE = 1 / 128
"""Beyond [0, 1]: what one rounding in bfloat16 makes of a value near 1."""
LEAST_SIDE_PX = 16
"""Smaller pictures cannot be judged."""
_NO_COLOURS = ("F", "I")
"""Modes of PIL whose values are no 8-bit colours."""


class InvalidOutputError(Exception):
    """A call gave no pictures that could be measured or compared; its text is one sentence."""


def checked_entries(returned: Any) -> dict[str, Any]:
    """What load() returned: {name: pipeline, torch module or any other object}.

    Raises InvalidOutputError, which says what is wrong with it and what it has to be.
    """
    must = "it has to return {name: pipeline, torch.nn.Module or any other object}"
    if not isinstance(returned, dict):
        what = "nothing (None)" if returned is None else _words(returned)
        raise InvalidOutputError(f"load() returned {what}: {must}")
    if not returned:
        raise InvalidOutputError(f"load() returned an empty dict: {must}")
    for name, entry in returned.items():
        if not isinstance(name, str) or not name:
            raise InvalidOutputError(f"load() returned a dict with the key {name!r}: {must}, with a text as every name")
        if entry is None:
            raise InvalidOutputError(f"load() returned None as {name!r}: leave it out, or return what it stands for")
    return dict(returned)


def checked_pictures(returned: Any, request: Any) -> Any:
    """What serving a request returned, as a floating-point tensor (B, 3, H, W) on the device that it came on.

    Nothing is clamped. Raises InvalidOutputError, which names what is accepted and what came instead.
    """
    import torch

    pictures = _as_tensor(returned, request)
    shape = tuple(pictures.shape)
    plain = pictures.layout is torch.strided and not pictures.is_meta and pictures.dtype in _dtypes()
    if len(shape) != 4 or shape[1] != 3 or min(shape[2:]) < LEAST_SIDE_PX or not plain:
        raise _refused(request, _words(returned), f", and at least {LEAST_SIDE_PX} px a side")
    if shape[0] != (wanted := _count(request)):
        raise InvalidOutputError(
            f"request {request.name} gave {_pictures(shape[0])}, and its batch says {wanted}: let batch say how many "
            "pictures it makes"
        )
    # One pass on the device, two numbers back; NaN and infinities show in them.
    low, high = torch.stack(torch.aminmax(pictures)).tolist()
    if not -TOLERANCE <= low <= high <= 1 + TOLERANCE:
        finite = pictures.isfinite()
        if not finite.all():
            count = int(pictures.numel() - finite.sum())
            raise _refused(
                request, f"{_words(returned)} in which {count} of {pictures.numel()} values are NaN or infinite"
            )
        raise _refused(request, f"{_words(returned)} with values from {low:.3g} to {high:.3g}")
    return pictures


def difference(pictures: Any, first: Any, request: Any) -> float:
    """The largest difference of any value of checked pictures from what the same request gave first, in [0, 1].

    Worked out where `pictures` are. Raises InvalidOutputError when the shapes differ.
    """
    if pictures.shape != first.shape:
        sizes = [f"{height_px} x {width_px} px" for *_, height_px, width_px in (pictures.shape, first.shape)]
        raise InvalidOutputError(f"request {request.name} gave pictures of {sizes[0]}, and {sizes[1]} the first time")
    return float((pictures.float() - first.to(pictures.device)).abs().max())


def _as_tensor(returned: Any, request: Any) -> Any:
    """Without a look at shape and range, unless no tensor can be made of it."""
    import numpy as np
    import torch

    if isinstance(returned, torch.Tensor):
        plain = returned.detach()
        return _floats(plain if type(plain) is torch.Tensor else plain.as_subclass(torch.Tensor))
    if isinstance(returned, np.ndarray) and returned.ndim == 4 and returned.shape[3] == 3:
        return _from_numpy(returned, request).permute(0, 3, 1, 2)
    pictures = [returned] if hasattr(returned, "convert") else returned
    if not isinstance(pictures, (list, tuple)) or not pictures:
        raise _refused(request, _words(returned))
    arrays = [_array_HWC(picture, request) for picture in pictures]
    if len({(array.shape, array.dtype) for array in arrays}) > 1:
        raise _refused(request, f"{_words(returned)} of different sizes or number formats")
    return _from_numpy(np.stack(arrays), request).permute(0, 3, 1, 2)


def _array_HWC(picture: Any, request: Any) -> Any:
    import numpy as np

    if isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] == 3:
        return picture
    if getattr(picture, "has_transparency_data", False) and picture.convert("RGBA").getextrema()[3][0] < 255:
        raise _refused(request, "a list in which there is a picture that can be seen through")
    if hasattr(picture, "convert") and not str(getattr(picture, "mode", "")).startswith(_NO_COLOURS):
        return np.asarray(picture.convert("RGB"))
    raise _refused(request, f"a list in which there is {_words(picture)}")


def _from_numpy(array: Any, request: Any) -> Any:
    import torch

    try:
        return _floats(torch.from_numpy(array.copy()))
    except (TypeError, ValueError):  # a type of numpy's that torch lacks, or its numbers the other way round
        raise _refused(request, _words(array)) from None


def _dtypes() -> tuple[Any, ...]:
    """Number formats of pictures; those of 8 bits are for weights, and torch can hardly compare their values."""
    import torch

    return (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _floats(tensor: Any) -> Any:
    """uint8 pictures as floats in [0, 1]; anything else as it is."""
    import torch

    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor


def _count(request: Any) -> int:
    """How many pictures a request promises: diffusers makes several of each prompt when it is told to."""
    each = request.arguments.get("num_images_per_prompt", 1)
    return int(request.batch) * (each if isinstance(each, int) else 1)


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"


def _refused(request: Any, came: str, also: str = "") -> InvalidOutputError:
    return InvalidOutputError(f"request {request.name} gave {came}: {ACCEPTED}{also}")


def _words(returned: Any) -> str:
    """What it is: "a torch.float32 tensor of shape (1, 4, 64, 64)", "a list of 2 Image"."""
    shape = getattr(returned, "shape", None)
    if shape is not None and hasattr(returned, "dtype"):
        kind = "tensor" if type(returned).__module__.startswith("torch") else "numpy array"
        return f"a {returned.dtype} {kind} of shape {tuple(shape)}"
    if isinstance(returned, (list, tuple)):
        kinds = ", ".join(dict.fromkeys(type(picture).__name__ for picture in returned))
        return f"a {type(returned).__name__} of {len(returned)} {kinds}" if returned else "an empty list"
    if returned is None:
        return "nothing (None)"
    return f"an object of the type {type(returned).__name__}"

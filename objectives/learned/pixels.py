"""Pictures in the form that the models' own preprocessing starts from."""

from PIL import Image
from torch import Tensor

from ..images import to_uint8


def to_pil(image_1CHW: Tensor) -> Image.Image:
    """One picture, (1, 3, H, W) in [0, 1] -> 8-bit RGB, as it would be saved."""
    return Image.fromarray(to_uint8(image_1CHW)[0].permute(1, 2, 0).contiguous().numpy())

"""Two small networks of the comic workflow: one finds the background of a drawing, one doubles its size.

benchmarks/comic_parts.py made their weights, on drawings like those that the quickstart's model was trained on.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Matting(nn.Module):
    """Where a drawing shows something: (B, 3, H, W) in [0, 1] to (B, 1, H, W), 0 for background and 1 for the rest."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.deeper = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(4 * width, 4 * width, 3, padding=4, dilation=4)
        self.wider = nn.Conv2d(4 * width, 4 * width, 3, padding=8, dilation=8)
        self.up = nn.Conv2d(4 * width + 2 * width, 2 * width, 3, padding=1)
        self.last = nn.Conv2d(2 * width + width, 1, 3, padding=1)

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        """See the class; H and W are multiples of 4."""
        fine = functional.silu(self.first(pictures_BCHW - 0.5))
        middle = functional.silu(self.down(fine))
        coarse = functional.silu(self.deeper(middle))
        coarse = coarse + functional.silu(self.wide(coarse))
        coarse = coarse + functional.silu(self.wider(coarse))
        middle = functional.silu(self.up(torch.cat([_twice(coarse), middle], 1)))
        return torch.sigmoid(self.last(torch.cat([_twice(middle), fine], 1)))


class Upscaler(nn.Module):
    """Drawings (B, 3, H, W) in [0, 1] at twice their size: what interpolation misses is added.

    After ESPCN, arXiv 1609.05158.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 5, padding=2)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.another = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        """See the class."""
        found = functional.silu(self.first(pictures_BCHW - 0.5))
        found = found + functional.silu(self.middle(found))
        found = found + functional.silu(self.another(found))
        missing = functional.pixel_shuffle(self.last(found), 2)
        larger = functional.interpolate(pictures_BCHW, scale_factor=2, mode="bicubic", align_corners=False)
        return (larger + missing).clamp(0, 1)


def _twice(features_BCHW: Tensor) -> Tensor:
    return functional.interpolate(features_BCHW, scale_factor=2, mode="nearest")

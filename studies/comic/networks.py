"""The networks of the comic workflow: one finds the background of a drawing, one doubles its size; each in two sizes.

benchmarks/comic_parts.py made the weights of the small ones, on drawings like those that the quickstart's model was
trained on. The large ones are as costly as what is used in production, and have random weights.
"""

from typing import Any

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


class LargeMatting(nn.Module):
    """As costly as BiRefNet (arXiv 2401.03407): a Swin transformer of its size, and a decoder over four scales."""

    def __init__(
        self,
        width: int = 192,
        depths: tuple[int, ...] = (2, 2, 18, 2),
        heads: tuple[int, ...] = (6, 12, 24, 48),
        window: int = 12,
        decoder: int = 256,
    ) -> None:
        super().__init__()
        from transformers import SwinBackbone, SwinConfig

        stages = [f"stage{number}" for number in range(1, 5)]
        config = SwinConfig(
            embed_dim=width, depths=depths, num_heads=heads, window_size=window, out_features=stages, drop_path_rate=0.0
        )
        self.backbone: Any = SwinBackbone(config)
        self.sides = nn.ModuleList(nn.Conv2d(width * 2**level, decoder, 1) for level in range(4))
        self.mixes = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(decoder, decoder, 3, padding=1), nn.SiLU(), nn.Conv2d(decoder, decoder, 3, padding=1)
            )
            for _ in range(4)
        )
        self.last = nn.Conv2d(decoder, 1, 3, padding=1)

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        """As that of Matting; H and W are multiples of 32."""
        features = self.backbone(pictures_BCHW - 0.5).feature_maps
        found = self.mixes[3](self.sides[3](features[3]))
        for level in (2, 1, 0):
            found = self.mixes[level](_twice(found) + self.sides[level](features[level]))
        return torch.sigmoid(functional.interpolate(self.last(found), scale_factor=4, mode="bilinear"))


class LargeUpscaler(nn.Module):
    """As costly as Real-ESRGAN x2plus (arXiv 2107.10833): 23 blocks of densely connected layers on half of the size."""

    def __init__(self, blocks: int = 23, width: int = 64, growth: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(12, width, 3, padding=1)
        self.body = nn.Sequential(*(_Dense(width, growth) for _ in range(3 * blocks)))
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.high = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        """As that of Upscaler; H and W are even."""
        found = self.first(functional.pixel_unshuffle(pictures_BCHW, 2))
        found = found + self.middle(self.body(found))
        for layer in self.up:
            found = functional.leaky_relu(layer(_twice(found)), 0.2)
        larger = functional.interpolate(pictures_BCHW, scale_factor=2, mode="bilinear")
        missing: Tensor = self.last(functional.leaky_relu(self.high(found), 0.2))
        return larger + 0.1 * missing


class _Dense(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        steps = [nn.Conv2d(width + number * growth, growth, 3, padding=1) for number in range(4)]
        self.steps = nn.ModuleList([*steps, nn.Conv2d(width + 4 * growth, width, 3, padding=1)])

    def forward(self, features_BCHW: Tensor) -> Tensor:
        known = [features_BCHW]
        for layer in list(self.steps)[:-1]:
            known.append(functional.leaky_relu(layer(torch.cat(known, 1)), 0.2))
        changed: Tensor = self.steps[-1](torch.cat(known, 1))
        return features_BCHW + 0.2 * changed


def _twice(features_BCHW: Tensor) -> Tensor:
    return functional.interpolate(features_BCHW, scale_factor=2, mode="nearest")

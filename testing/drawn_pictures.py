"""Drawn pictures: no photographs, no downloads, the same on every machine."""

import numpy
import torch
from PIL import Image, ImageDraw
from torch import Tensor


def draw_comic(side_px: int = 128, offset_px: int = 0) -> Tensor:
    """(1, 3, side, side): plain background, flat fills, dark outlines; `offset_px` moves the figure."""
    image = Image.new("RGB", (side_px, side_px), (214, 232, 246))
    draw = ImageDraw.Draw(image)
    scale, ink = side_px / 128, (24, 20, 28)

    def box(*corners: int) -> tuple[float, ...]:
        return tuple(corner * scale + offset_px for corner in corners)

    draw.ellipse(box(34, 18, 94, 78), fill=(250, 214, 170), outline=ink, width=3)
    draw.rectangle(box(44, 78, 84, 118), fill=(206, 60, 66), outline=ink, width=3)
    draw.ellipse(box(50, 38, 58, 50), fill=ink)
    draw.ellipse(box(70, 38, 78, 50), fill=ink)
    draw.arc(box(52, 48, 76, 68), 20, 160, fill=ink, width=2)
    return _tensor(image)


def draw_scene(side_px: int = 256, seed: int = 0) -> Tensor:
    """(1, 3, side, side): a photograph's statistics, roughly: shading, texture at several scales, some objects."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.zeros(1, 3, side_px, side_px)
    for octave, weight in ((4, 0.35), (8, 0.22), (16, 0.14), (32, 0.10), (64, 0.07), (128, 0.05), (side_px, 0.03)):
        noise = torch.rand(1, 3, octave, octave, generator=generator) - 0.5
        grey = noise.mean(dim=1, keepdim=True)
        scene += weight * torch.nn.functional.interpolate(0.4 * noise + 1.4 * grey, size=side_px, mode="bicubic")
    image = Image.fromarray(_pixels(0.5 + scene.clamp(-0.48, 0.48)))
    draw = ImageDraw.Draw(image)
    x, y = torch.randint(20, side_px - 100, (2,), generator=generator).tolist()
    draw.ellipse((x, y, x + 60, y + 80), fill=(70, 110, 60))
    draw.rectangle((y, x, y + 90, x + 40), fill=(180, 120, 90))
    return _tensor(image)


def noisy(picture: Tensor, sigma_lsb: float) -> Tensor:
    """The picture with Gaussian noise of so many steps of 255, always the same noise."""
    generator = torch.Generator().manual_seed(7)
    return (picture + torch.randn(picture.shape, generator=generator) * sigma_lsb / 255).clamp(0, 1)


def _pixels(picture_1CHW: Tensor) -> "numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.uint8]]":
    return (picture_1CHW[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(numpy.array(image)).permute(2, 0, 1)[None].contiguous().float() / 255

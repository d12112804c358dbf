"""The quality ladder: known damage at rising strength, and the verdicts that each rung may get.

The pictures are the small model's own (`tests/objectives/pictures`, 128 px a side), so lengths need a scale. Strengths
in levels and JPEG qualities mean the same at any size. Blur is given in pixels of a 1024 px picture: every pixel is
taken as a square of 8 x 8 finer ones, blurred there and averaged back, so that 8 is one pixel of these pictures. Shift,
patch and mosaic are in pixels of the picture itself; a latent pixel is 8 of them at any size.

Where `from_run` is true, the allowed verdicts come from a run of the same damage over five 1024 px pictures (four
photographs, one drawn). Its blur and shift were in pixels of pictures that have detail of one pixel, as these have; its
patch was the same share of the side; its cast was 34.5 dB from the reference, which fits the two channels here. Two
neighbouring verdicts are allowed where those five disagreed. Elsewhere they are own choices, made with the metrics'
values on these pictures in view: they keep what was looked at and found right, and prove no more.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from paretune.objectives.pictures import PictureJudgement, judge_pictures, load_png
from paretune.objectives.verdict import CAPS, THRESHOLDS, Verdict
from PIL import Image
from torch import Tensor
from torch.nn import functional

PICTURES = Path(__file__).parents[1] / "objectives" / "pictures"
NAMES = ("sunglasses", "top-hat", "crown")
"""Requests of studies/quickstart.yaml whose pictures are kept."""

GRID_PX = 8
EYE_PX = (52, 67)  # x and y of the left eye, in all three pictures
SHIRT_PX = (64, 116)

Distortion = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One strength of one distortion. `distort` takes and returns (1, 3, H, W) floats; the result may leave [0, 1].

    The verdict must lie between `at_best` and `at_worst`: better would miss damage, worse would be a false alarm.
    `from_run`: whether those two were observed on other pictures, or chosen here. `named`: detectors one of which must
    speak.
    """

    series: str
    strength: str
    distort: Distortion
    at_best: Verdict
    at_worst: Verdict
    reason: str
    from_run: bool
    named: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Series and strength, unique."""
        return f"{self.series} {self.strength}"

    @property
    def allowed(self) -> str:
        """The verdicts in words."""
        return self.at_best if self.at_best is self.at_worst else f"{self.at_best} to {self.at_worst}"

    def allows(self, verdict: Verdict) -> bool:
        """Whether the table allows this verdict."""
        return verdict.at_least(self.at_worst) and self.at_best.at_least(verdict)

    def apply(self, picture_1CHW: Tensor) -> Tensor:
        """The damaged picture; NaN are kept, everything else is clamped to [0, 1]."""
        return self.distort(picture_1CHW).clamp(0, 1)

    def judge(self, picture_1CHW: Tensor) -> PictureJudgement:
        """The judgement of the damaged picture against the picture."""
        return judge_pictures(picture_1CHW, self.apply(picture_1CHW))[0]


def picture(name: str) -> Tensor:
    """One of the kept pictures, (1, 3, 128, 128)."""
    return load_png(PICTURES / f"{name}.png")[None]


def one_lsb(share: float) -> Distortion:
    """One level up or down on a share of the values."""

    def distort(picture_1CHW: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        sign = torch.randint(0, 2, picture_1CHW.shape, generator=generator) * 2 - 1
        hit = torch.rand(picture_1CHW.shape, generator=generator) < share
        return picture_1CHW + sign * hit / 255

    return distort


def noise(sigma_levels: float) -> Distortion:
    """Independent Gaussian noise on every value; the same noise, scaled, at every strength."""

    def distort(picture_1CHW: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        return picture_1CHW + torch.randn(picture_1CHW.shape, generator=generator) * sigma_levels / 255

    return distort


def blur(sigma_px_at_1024: float) -> Distortion:
    """Gaussian blur of the picture shown at 1024 px a side."""

    def distort(picture_1CHW: Tensor) -> Tensor:
        times = 1024 // picture_1CHW.shape[3]
        fine = picture_1CHW.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)
        reach = int(4 * sigma_px_at_1024 + 0.5)
        offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
        weights = torch.exp(-offsets.square() / (2 * sigma_px_at_1024**2))
        weights = weights / weights.sum()
        planes = functional.pad(fine, [reach] * 4, mode="replicate").transpose(0, 1)
        planes = functional.conv2d(planes, weights.view(1, 1, 1, -1))
        planes = functional.conv2d(planes, weights.view(1, 1, -1, 1))
        return functional.avg_pool2d(planes.transpose(0, 1), times)

    return distort


def jpeg(quality: int) -> Distortion:
    """Through a JPEG file, with Pillow's default 4:2:0 subsampling of colour."""

    def distort(picture_1CHW: Tensor) -> Tensor:
        pixels_HWC = (picture_1CHW[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        file = io.BytesIO()
        Image.fromarray(pixels_HWC).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            decoded_HWC = numpy.array(image)
        return torch.from_numpy(decoded_HWC).permute(2, 0, 1)[None].float() / 255

    return distort


def shift(pixels: int) -> Distortion:
    """To the right; the left edge is repeated."""
    return lambda picture_1CHW: functional.pad(picture_1CHW, (pixels, 0, 0, 0), mode="replicate")[..., :-pixels]


def cast(red: float = 0, green: float = 0, blue: float = 0) -> Distortion:
    """Channels brighter or darker everywhere, by so many levels."""
    return lambda picture_1CHW: picture_1CHW + torch.tensor([red, green, blue]).view(1, 3, 1, 1) / 255


def patch(side_px: int) -> Distortion:
    """A square of the left eye, replaced by one of the shirt."""

    def distort(picture_1CHW: Tensor) -> Tensor:
        patched = picture_1CHW.clone()
        patched[_square(EYE_PX, side_px)] = picture_1CHW[_square(SHIRT_PX, side_px)]
        return patched

    return distort


def mosaic(share: float) -> Distortion:
    """The left share of the picture in blocks of 8 px: each its own mean."""

    def distort(picture_1CHW: Tensor) -> Tensor:
        blocks = functional.interpolate(functional.avg_pool2d(picture_1CHW, GRID_PX), scale_factor=GRID_PX)
        width_px = int(picture_1CHW.shape[3] * share)
        return torch.cat([blocks[..., :width_px], picture_1CHW[..., width_px:]], dim=3)

    return distort


def one_nan(picture_1CHW: Tensor) -> Tensor:
    """A single value of NaN."""
    spoilt = picture_1CHW.clone()
    spoilt[0, 1, 64, 64] = torch.nan
    return spoilt


def _square(centre_px: tuple[int, int], side_px: int) -> tuple[slice, slice, slice, slice]:
    x, y = (coordinate - side_px // 2 for coordinate in centre_px)
    return slice(None), slice(None), slice(y, y + side_px), slice(x, x + side_px)


_IMPERCEPTIBLE, _NEAR, _VISIBLE, _DIFFERENT, _BROKEN = (
    Verdict.IMPERCEPTIBLE,
    Verdict.NEAR_LOSSLESS,
    Verdict.VISIBLE,
    Verdict.DIFFERENT,
    Verdict.BROKEN,
)


_RUN, _OWN = True, False


def _series(
    series: str, *rungs: tuple[str, Distortion, Verdict, Verdict, bool, str], named: tuple[str, ...] = ()
) -> list[Rung]:
    return [
        Rung(
            series=series,
            strength=strength,
            distort=distort,
            at_best=at_best,
            at_worst=at_worst,
            from_run=from_run,
            reason=reason,
            named=named,
        )
        for strength, distort, at_best, at_worst, from_run, reason in rungs
    ]


LADDER: tuple[Rung, ...] = (
    *_series(
        "one level",
        ("10 % of values", one_lsb(0.1), _IMPERCEPTIBLE, _IMPERCEPTIBLE, _RUN, "rounding"),
    ),
    *_series(
        "noise",
        ("1 level", noise(1), _IMPERCEPTIBLE, _IMPERCEPTIBLE, _RUN, "48 dB"),
        (
            "2 levels",
            noise(2),
            _IMPERCEPTIBLE,
            _NEAR,
            _OWN,
            "near-lossless at the median of the run, by a narrow margin",
        ),
        ("5 levels", noise(5), _NEAR, _VISIBLE, _OWN, "between 2 levels and 10"),
        ("10 levels", noise(10), _VISIBLE, _VISIBLE, _RUN, "grain everywhere, same composition"),
    ),
    *_series(
        "blur",
        ("1 px of 1024", blur(1), _IMPERCEPTIBLE, _NEAR, _OWN, "an eighth of a pixel"),
        ("2 px", blur(2), _IMPERCEPTIBLE, _NEAR, _OWN, "a quarter of a pixel"),
        ("4 px", blur(4), _NEAR, _VISIBLE, _OWN, "half a pixel: outlines begin to soften"),
        ("8 px", blur(8), _NEAR, _VISIBLE, _RUN, "a whole pixel: visible on four pictures of five"),
        ("32 px", blur(32), _VISIBLE, _VISIBLE, _RUN, "four pixels: only forms are left"),
    ),
    *_series(
        "JPEG",
        ("quality 98", jpeg(98), _IMPERCEPTIBLE, _NEAR, _RUN, "imperceptible on three pictures of five"),
        ("90", jpeg(90), _IMPERCEPTIBLE, _VISIBLE, _OWN, "between 98 and 70"),
        ("70", jpeg(70), _NEAR, _VISIBLE, _RUN, "visible on four pictures of five"),
        ("15", jpeg(15), _VISIBLE, _VISIBLE, _RUN, "blocks and ringing"),
    ),
    *_series(
        "shift",
        ("1 px", shift(1), _VISIBLE, _VISIBLE, _RUN, "harmless to most people, but not the same pixels"),
        ("4 px", shift(4), _VISIBLE, _DIFFERENT, _OWN, "3 % of the width: the figure stands elsewhere"),
    ),
    *_series(
        "warm cast",
        ("red +2, blue -2", cast(red=2, blue=-2), _IMPERCEPTIBLE, _NEAR, _OWN, "about one just noticeable difference"),
        ("+6, -6", cast(red=6, blue=-6), _VISIBLE, _VISIBLE, _RUN, "a tint all over, at 34.5 dB"),
        ("+15, -15", cast(red=15, blue=-15), _VISIBLE, _VISIBLE, _OWN, "a tint that everybody sees"),
    ),
    *_series(
        "green cast",
        ("+2 levels", cast(green=2), _IMPERCEPTIBLE, _NEAR, _OWN, "about one just noticeable difference"),
        ("+6", cast(green=6), _VISIBLE, _VISIBLE, _OWN, "mean ΔE00 above 2"),
        ("+15", cast(green=15), _VISIBLE, _VISIBLE, _OWN, "a tint that everybody sees"),
    ),
    *_series(
        "blue cast",
        ("-2 levels", cast(blue=-2), _IMPERCEPTIBLE, _NEAR, _OWN, "under one just noticeable difference"),
        ("-6", cast(blue=-6), _NEAR, _VISIBLE, _OWN, "half the ΔE00 of the same change in green"),
        ("-15", cast(blue=-15), _VISIBLE, _VISIBLE, _OWN, "mean ΔE00 above 2"),
    ),
    *_series(
        "replaced patch",
        ("4 px", patch(4), _NEAR, _VISIBLE, _OWN, "a pupil, seen by who looks there"),
        ("8 px", patch(8), _VISIBLE, _VISIBLE, _RUN, "64 px of 1024: means over the picture miss it"),
        ("16 px", patch(16), _VISIBLE, _DIFFERENT, _OWN, "an eye"),
    ),
    *_series(
        "mosaic",
        ("left half", mosaic(0.5), _VISIBLE, _BROKEN, _OWN, "visible in the run by its metrics; must be named"),
        ("whole", mosaic(1.0), _BROKEN, _BROKEN, _OWN, "nothing finer than a latent pixel is left"),
        named=("mosaic", "block_grid"),
    ),
    *_series("empty", ("black", torch.zeros_like, _BROKEN, _BROKEN, _RUN, "no picture"), named=("black",)),
    *_series(
        "not a number",
        ("one NaN", one_nan, _BROKEN, _BROKEN, _OWN, "half precision overflowed"),
        named=("non_finite",),
    ),
)
"""The rungs, series by series, each in rising strength."""


def series_of(rungs: Sequence[Rung]) -> dict[str, list[Rung]]:
    """The rungs by series, in order."""
    grouped: dict[str, list[Rung]] = {}
    for rung in rungs:
        grouped.setdefault(rung.series, []).append(rung)
    return grouped


def caps_table() -> list[str]:
    """The flags that decide, as lines of Markdown, for docs/quality.md."""
    rows = [f"| {cap.detector} | {cap.at_best} | {cap.source} |" for cap in CAPS]
    return ["| flag | at best | source |", "| --- | --- | --- |", *rows]


def thresholds_table() -> list[str]:
    """The rules of the verdicts as lines of Markdown, for docs/quality.md."""
    lines = ["| metric | imperceptible | near-lossless | visible | source |", "| --- | --- | --- | --- | --- |"]
    for row in THRESHOLDS:
        sign = ">=" if row.higher_is_better else "<="
        demands = (row.imperceptible, row.near_lossless, row.visible)
        cells = " | ".join("" if demand is None else f"{sign} {demand:g}" for demand in demands)
        optional = "" if row.required else " (when measured)"
        lines.append(f"| {row.metric}{optional} | {cells} | {row.source} |")
    return lines

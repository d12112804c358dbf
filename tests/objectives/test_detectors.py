"""The contract of every detector: silent on healthy pictures, and heard on the failure it is for."""

from collections.abc import Callable

import pytest
import torch
from paretune.objectives.detectors import DETECTORS, Detector
from torch import Tensor

BY_NAME = {detector.name: detector for detector in DETECTORS}
each_detector = pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)


def noisy(picture: Tensor, sigma_lsb: float) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return (picture + torch.randn(picture.shape, generator=generator) * sigma_lsb / 255).clamp(0, 1)


def one_lsb(picture: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return (picture + (torch.randint(0, 2, picture.shape, generator=generator) * 2 - 1) / 255).clamp(0, 1)


def moved(picture: Tensor, pixels: int = 1) -> Tensor:
    return torch.nn.functional.pad(picture, (pixels, 0, pixels, 0), mode="replicate")[..., :-pixels, :-pixels]


def smoothed(picture: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(picture, [2] * 4, mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, 5, stride=1)


def mosaic(picture: Tensor) -> Tensor:
    blocks = torch.nn.functional.avg_pool2d(picture, 8)
    return torch.nn.functional.interpolate(blocks, scale_factor=8, mode="nearest")


def half_mosaic(picture: Tensor) -> Tensor:
    half = picture.shape[3] // 2
    return torch.cat([mosaic(picture)[..., :half], picture[..., half:]], dim=3)


def with_hole(picture: Tensor) -> Tensor:
    holed = picture.clone()
    middle = picture.shape[3] // 2
    holed[:, :, middle - 32 : middle + 32, middle - 32 : middle + 32] = 0.5
    return holed


def with_nan(picture: Tensor) -> Tensor:
    spoilt = picture.clone()
    spoilt[0, 1, 5, 5] = torch.nan
    spoilt[0, 2, 5, 6] = torch.inf
    return spoilt


def cast(lsb: float) -> Callable[[Tensor], Tensor]:
    return lambda picture: (picture + torch.tensor([lsb, 0.0, -lsb]).view(1, 3, 1, 1) / 255).clamp(0, 1)


def greyish(picture: Tensor) -> Tensor:
    return 0.5 * picture + 0.5 * picture.mean(dim=1, keepdim=True)


FAILURES: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("non_finite", with_nan),
    ("black", torch.zeros_like),
    ("black", lambda picture: torch.full_like(picture, 0.5)),
    ("black", lambda picture: picture * 0.02),
    ("clipped", lambda picture: (picture * 255).clamp(0, 1)),
    ("dead_tile", with_hole),
    ("mosaic", mosaic),
    ("mosaic", half_mosaic),
    ("block_grid", lambda picture: 0.7 * picture + 0.3 * mosaic(picture)),
    ("color_cast", cast(8)),
    ("color_cast", greyish),
    ("over_smoothing", smoothed),
    ("noise", lambda picture: noisy(picture, 40)),
    ("composition", lambda picture: picture.flip(2)),
]

HEALTHY: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("identical", torch.clone),
    ("one LSB everywhere", one_lsb),
    ("noise of one LSB", lambda picture: noisy(picture, 1)),
    ("moved by a pixel", moved),
    ("cast of two LSB", cast(2)),
]


def test_names_are_unique_and_documented() -> None:
    assert len(BY_NAME) == len(DETECTORS)
    assert all(detector.summary and detector.source for detector in DETECTORS)
    assert {detector.name for detector in DETECTORS if detector.breaks} == {
        "non_finite",
        "black",
        "clipped",
        "dead_tile",
        "mosaic",
    }
    assert {name for name, _ in FAILURES} == set(BY_NAME)


@pytest.mark.parametrize(("name", "failure"), FAILURES)
@pytest.mark.parametrize("picture", ["comic", "scene"])
def test_its_failure_is_heard(
    name: str, failure: Callable[[Tensor], Tensor], picture: str, request: pytest.FixtureRequest
) -> None:
    reference: Tensor = request.getfixturevalue(picture)
    (reason,) = BY_NAME[name](reference, failure(reference))
    assert reason


@each_detector
@pytest.mark.parametrize(("name", "change"), HEALTHY, ids=[name for name, _ in HEALTHY])
@pytest.mark.parametrize("picture", ["comic", "scene", "empty", "grey"])
def test_healthy_pictures_raise_nothing(
    detector: Detector, name: str, change: Callable[[Tensor], Tensor], picture: str, request: pytest.FixtureRequest
) -> None:
    if picture == "empty":
        reference = torch.full((1, 3, 128, 128), 0.9)
    elif picture == "grey":
        reference = request.getfixturevalue("comic").mean(dim=1, keepdim=True).repeat(1, 3, 1, 1)
    else:
        reference = request.getfixturevalue(picture)
    if detector.name == "composition" and picture in ("comic", "grey") and name == "moved by a pixel":
        pytest.skip("moving bold outlines diagonally by a pixel of 128 is a quarter of a thumbnail's: may be flagged")
    assert detector(reference, change(reference)) == [None]


@pytest.mark.parametrize("pixels", range(1, 9))
def test_a_moved_comic_is_not_broken(comic: Tensor, pixels: int) -> None:
    for detector in DETECTORS:
        if detector.breaks:
            assert detector(comic, moved(comic, pixels)) == [None]


@each_detector
def test_a_batch_is_judged_picture_by_picture_and_nothing_is_mutated(detector: Detector, comic: Tensor) -> None:
    failure = dict(FAILURES)[detector.name]
    reference = comic.repeat(3, 1, 1, 1)
    candidate = torch.cat([comic, failure(comic), comic])
    kept = reference.clone(), candidate.clone()
    first, second, third = detector(reference, candidate)
    assert (first, third) == (None, None)
    assert second
    assert torch.equal(reference, kept[0])
    assert torch.equal(candidate.nan_to_num(), kept[1].nan_to_num())


@each_detector
def test_without_a_reference(detector: Detector, comic: Tensor) -> None:
    assert detector(None, comic) == [None]
    (reason,) = detector(None, with_nan(comic) if detector.raw else torch.zeros_like(comic))
    assert bool(reason) == (detector.name in ("non_finite", "black", "clipped"))


@each_detector
@pytest.mark.parametrize("size", [(16, 16), (33, 50), (70, 300), (264, 264)])
def test_any_size_is_accepted(detector: Detector, size: tuple[int, int]) -> None:
    picture = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    assert detector(picture, picture.clone()) == [None]


def test_the_counts_of_what_is_not_finite(comic: Tensor) -> None:
    (reason,) = BY_NAME["non_finite"](comic, with_nan(comic))
    assert reason == "1 of 49152 values are NaN and 1 infinite"


def test_a_part_that_was_replaced_is_heard_although_thumbnails_correlate(scene: Tensor) -> None:
    candidate = scene.clone()
    candidate[:, :, 64:192, 64:192] = scene[:, :, 64:192, 64:192].flip(2)
    (reason,) = BY_NAME["composition"](scene, candidate)
    assert reason == "other forms: 13 of 64 bits of the perceptual hash differ"

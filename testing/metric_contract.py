"""What every drift metric promises, checked on drawn pictures.

Each check raises AssertionError with a sentence that says what the metric does not keep.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..objectives.drift import Metric
from .drawn_pictures import draw_comic, draw_scene, noisy

SIZES = ((128, 128), (64, 96), (33, 50), (16, 17))
"""(height, width) in pixels, odd and small ones among them; 16 is the least."""


def check_metric(metric: Metric) -> None:
    """Check everything that a metric promises. Raises AssertionError, in a sentence, for a promise that is not kept."""
    for check in METRIC_CHECKS:
        check(metric)


def check_words(metric: Metric) -> None:
    """It says its unit, what it is, and where it is defined."""
    for field in ("name", "unit", "summary", "source"):
        assert getattr(metric, field), f"{metric.name}: the {field} is empty"


def check_equal_pictures_are_best(metric: Metric) -> None:
    """Two equal pictures of any size get exactly `best`."""
    for height, width in SIZES:
        picture = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
        values = metric(picture, picture.clone()).tolist()
        text = f"{metric.name}: equal pictures of {width} x {height} px get {values}, not {metric.best} each"
        assert values == [metric.best] * 2, text


def check_one_value_per_picture(metric: Metric) -> None:
    """One finite float64 per picture, and the pictures stay as they were."""
    reference = draw_comic().repeat(2, 1, 1, 1)
    candidate = noisy(reference, 5)
    kept = reference.clone(), candidate.clone()
    value = metric(reference, candidate)
    assert value.shape == (2,), f"{metric.name}: two pictures get a tensor of shape {tuple(value.shape)}, not (2,)"
    assert value.dtype == torch.float64, f"{metric.name}: values are {value.dtype}, not float64"
    assert value.isfinite().all(), f"{metric.name}: {value.tolist()} is not finite"
    untouched = torch.equal(reference, kept[0]) and torch.equal(candidate, kept[1])
    assert untouched, f"{metric.name}: it changes the pictures it is given"


def check_pictures_are_judged_alone(metric: Metric) -> None:
    """A picture's value does not depend on the others of the batch."""
    comic = draw_comic()
    candidate, awful = noisy(comic, 3), torch.zeros_like(comic)
    together = metric(torch.cat([comic, comic]), torch.cat([candidate, awful])).tolist()
    alone = [metric(comic, picture).item() for picture in (candidate, awful)]
    same = all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) for a, b in zip(together, alone, strict=True))
    assert same, f"{metric.name}: pictures judged together get {together}, and alone {alone}"


def check_more_noise_is_never_better(metric: Metric) -> None:
    """Stronger noise on a picture never gets a better value."""
    for picture in (draw_comic(), draw_scene()):
        values = [metric(picture, noisy(picture, sigma_lsb)).item() for sigma_lsb in (0, 1, 4, 16, 48)]
        ordered = values == sorted(values, reverse=metric.higher_is_better)
        assert ordered, f"{metric.name}: more and more noise gets {values}, which is not always worse"


def check_another_picture_is_noticed(metric: Metric) -> None:
    """A picture upside down is not the same picture."""
    for picture in (draw_comic(), draw_scene()):
        value = metric(picture, picture.flip(2)).item()
        assert value != metric.best, f"{metric.name}: the picture upside down gets {value}, as if it were the same"


def check_extremes_give_numbers(metric: Metric) -> None:
    """Black against white is a number, infinite perhaps."""
    black, white = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    for value in (metric(black, white), metric(white, black)):
        assert not value.isnan().any(), f"{metric.name}: black against white is NaN"


def check_inputs(metric: Metric) -> None:
    """Half precision is accepted; other shapes and integers are refused with a ValueError."""
    comic = draw_comic()
    half = metric(comic.bfloat16(), comic.bfloat16()).tolist()
    assert half == [metric.best], f"{metric.name}: equal pictures in bfloat16 get {half}, not {metric.best}"
    integers = (comic * 255).to(torch.uint8)
    _check_refused(metric, comic, comic[:, :, :64], "shape")
    _check_refused(metric, comic[0], comic[0], "floats")
    _check_refused(metric, integers, integers, "floats")


METRIC_CHECKS: tuple[Callable[[Metric], None], ...] = (
    check_words,
    check_equal_pictures_are_best,
    check_one_value_per_picture,
    check_pictures_are_judged_alone,
    check_more_noise_is_never_better,
    check_another_picture_is_noticed,
    check_extremes_give_numbers,
    check_inputs,
)
"""All of them, as check_metric runs them."""


def _check_refused(metric: Metric, reference: Tensor, candidate: Tensor, word: str) -> None:
    refusal = ""
    try:
        metric(reference, candidate)
    except ValueError as error:
        refusal = str(error)
    case = f"{metric.name}, {tuple(reference.shape)} {reference.dtype} and {tuple(candidate.shape)}"
    assert refusal, f"{case}: not refused with a ValueError"
    assert word in refusal, f"{case}: the refusal does not say {word!r}: {refusal}"

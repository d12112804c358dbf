"""The contract of every metric, and values of independent implementations."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from paretune.objectives import drift
from paretune.objectives.drift import METRICS, Metric, ciede2000, known_metrics, load_metrics, measure, ms_ssim
from paretune.objectives.verdict import EQUALITY_METRIC, THRESHOLDS
from paretune.testing import METRIC_CHECKS, noisy
from PIL import Image
from torch import Tensor

BY_NAME = {metric.name: metric for metric in METRICS}
each_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


def known_pair() -> tuple[Tensor, Tensor]:
    """A pair from integer formulas, which other implementations can be given exactly."""
    y, x = torch.arange(192)[:, None], torch.arange(176)[None, :]
    reference = torch.stack([(x * (3 + c) + y * (2 + c) + ((x * y) // (7 + c)) * 5) % 256 for c in range(3)])[None]
    change = torch.stack([((x * 31 + y * 17 + c * 7 + (x * y) % 13) % 21) - 10 for c in range(3)])[None]
    return reference.float() / 255, (reference + change).clamp(0, 255).float() / 255


def test_names_are_unique_and_thresholds_are_of_metrics() -> None:
    assert len(BY_NAME) == len(METRICS)
    assert EQUALITY_METRIC in BY_NAME
    for row in THRESHOLDS:
        if row.required:  # others need weights, and are computed elsewhere
            assert BY_NAME[row.metric].higher_is_better == row.higher_is_better


@each_metric
@pytest.mark.parametrize("check", METRIC_CHECKS, ids=lambda check: check.__name__)
def test_metric_keeps_its_promises(metric: Metric, check: Callable[[Metric], None]) -> None:
    check(metric)


@pytest.mark.parametrize(
    "metric",
    # phash looks at the coarsest forms alone, where noise averages out.
    [metric for metric in METRICS if metric.name != "phash_bits"],
    ids=lambda metric: metric.name,
)
def test_noise_is_noticed(metric: Metric, comic: Tensor, scene: Tensor) -> None:
    for picture in (comic, scene):
        assert metric(picture, noisy(picture, 48)).item() != metric.best


@pytest.mark.parametrize(
    ("name", "expected", "tolerance"),
    [
        ("psnr_db", 32.58283554842477, 1e-5),  # scikit-image peak_signal_noise_ratio
        ("ssim", 0.9964326252324183, 1e-6),  # scikit-image structural_similarity, Gaussian weights, population variance
        ("ms_ssim", 0.9958082252393315, 5e-6),  # pytorch-msssim 1.0.0, float64
        ("gmsd", 0.004517926966798004, 1e-8),  # numpy and scipy.signal.convolve2d, from the paper's formulas
        ("delta_e_mean", 3.073340068662081, 1e-4),  # scikit-image deltaE_ciede2000 (its sRGB matrix is rounded)
        ("delta_e_p99", 9.311460948830549, 1e-2),  # the same; numpy interpolates the percentile
    ],
)
def test_values_of_independent_implementations(name: str, expected: float, tolerance: float) -> None:
    assert BY_NAME[name](*known_pair()).item() == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    ("name", "tolerance"), [("ssim", 2e-5), ("ms_ssim", 2e-5), ("ssimulacra2", 0.01), ("delta_e_mean", 1e-5)]
)
@pytest.mark.parametrize("sigma_lsb", [0.5, 1, 2, 4, 10])
def test_float32_is_enough(name: str, tolerance: float, sigma_lsb: float, comic: Tensor, scene: Tensor) -> None:
    """The same steps in float64; the flat picture is where SSIM's textbook formula loses most."""
    metric = BY_NAME[name]
    for reference in (comic, scene, torch.full((1, 3, 128, 128), 0.9)):
        candidate = noisy(reference, sigma_lsb)
        doubles = reference.double(), candidate.double()
        exact = metric.compute(*doubles) if metric.shared is None else metric.compute(metric.shared(*doubles))
        # In flat areas it is a share of the distance from 1 that is lost.
        slack = tolerance + 1e-3 * abs(metric.best - exact.item()) * (name in ("ssim", "ms_ssim"))
        assert metric(reference, candidate).item() == pytest.approx(exact.item(), abs=slack)


def test_what_metrics_share_is_computed_once(comic: Tensor) -> None:
    calls: list[int] = []

    def difference(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
        calls.append(len(reference_BCHW))
        return (candidate_BCHW - reference_BCHW).flatten(1)

    def own(name: str, compute: Callable[[Tensor], Tensor]) -> Metric:
        return dataclasses.replace(BY_NAME["psnr_db"], name=name, compute=compute, shared=difference)

    metrics = [own("least", lambda d_BN: d_BN.amin(dim=1)), own("most", lambda d_BN: d_BN.amax(dim=1)), BY_NAME["ssim"]]
    candidate = noisy(comic, 3)
    values = measure(metrics, comic, candidate)
    assert calls == [1]
    assert list(values) == ["least", "most", "ssim"]
    for metric in metrics:
        assert values[metric.name].dtype == torch.float64
        assert torch.equal(values[metric.name], metric(comic, candidate))
    with pytest.raises(ValueError, match="shape"):
        measure(metrics, comic, comic[:, :, :64])


# Pairs 1, 4, 7, 9, 10, 11, 13, 15, 17, 20, 25, 28, 31, 33, 34 of Sharma, Wu & Dalal 2005, table 1.
SHARMA = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, -1.3802, -84.2814), (50.0, 0.0, -82.7485), 1.0000),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0009), 7.1792),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0010), 7.1792),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0011), 7.2195),
    ((50.0, -0.001, 2.49), (50.0, 0.0009, -2.49), 4.8045),
    ((50.0, -0.001, 2.49), (50.0, 0.0011, -2.49), 4.7461),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((50.0, 2.5, 0.0), (58.0, 24.0, 15.0), 19.4535),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((35.0831, -44.1164, 3.7933), (35.0232, -40.0716, 1.5901), 1.8645),
    ((36.4612, 47.8580, 18.3852), (36.2715, 50.5065, 21.2231), 1.4146),
    ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("first", "second", "expected"), SHARMA)
def test_ciede2000_of_the_published_pairs(first: tuple[float, ...], second: tuple[float, ...], expected: float) -> None:
    one, two = (torch.tensor(lab, dtype=torch.float64).view(1, 3, 1) for lab in (first, second))
    assert ciede2000.ciede2000(one, two).item() == pytest.approx(expected, abs=1e-4)
    assert ciede2000.ciede2000(two, one).item() == pytest.approx(expected, abs=1e-4)


def test_greys_have_no_chroma_and_white_is_100() -> None:
    lab = ciede2000.srgb_to_lab(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).view(3, 1, 1, 1).expand(3, 3, 1, 1))
    assert lab[:, 1:].abs().max() < 1e-9
    assert lab[0, 0].item() == pytest.approx(0, abs=1e-9)
    assert lab[2, 0].item() == pytest.approx(100, abs=1e-9)


@pytest.mark.parametrize(
    ("side", "scales"), [(1024, 5), (161, 5), (160, 4), (128, 4), (80, 3), (40, 2), (20, 1), (16, 1)]
)
def test_small_pictures_use_fewer_scales(side: int, scales: int) -> None:
    assert ms_ssim.scales_that_fit(side) == scales


def test_an_empty_picture_does_not_correlate(comic: Tensor) -> None:
    assert BY_NAME["ncc32"](comic, torch.zeros_like(comic)).item() < 0.1


def imagehash_bits(picture: Tensor) -> Tensor:
    """What ImageHash 4.3.2's phash does, in the words of its code: Pillow's greys and Lanczos, an unscaled DCT."""
    pixels_HWC = (picture[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    grey = Image.fromarray(pixels_HWC).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    place = numpy.arange(32)
    cosines = 2 * numpy.cos(numpy.pi * place[:8, None] * (2 * place + 1) / 64)
    low = cosines @ numpy.asarray(grey).astype(float) @ cosines.T
    return torch.from_numpy(low > numpy.median(low)).flatten()


def test_the_perceptual_hash_of_others(comic: Tensor, scene: Tensor) -> None:
    for picture in (comic, scene):
        for pixels in (0, 4, 16, 64):
            moved = torch.roll(picture, pixels, dims=3)
            expected = int((imagehash_bits(picture) != imagehash_bits(moved)).sum())
            assert BY_NAME["phash_bits"](picture, moved).item() == pytest.approx(expected, abs=6)
    assert BY_NAME["phash_bits"](scene, scene.flip(2)).item() > 24


def test_an_empty_picture_has_no_forms_to_change() -> None:
    empty = torch.full((1, 3, 128, 128), 0.9)
    assert BY_NAME["phash_bits"](empty, noisy(empty, 5)).item() == 0


def test_the_worst_tile_is_found_at_an_edge_the_tile_does_not_divide() -> None:
    picture = torch.full((1, 3, 100, 70), 0.5)
    candidate = picture.clone()
    candidate[..., -10:, -10:] = 1.0
    expected_db = -10 * math.log10(0.25 * 100 / 64**2)
    assert BY_NAME["worst_tile_psnr_db"](picture, candidate).item() == pytest.approx(expected_db, abs=1e-5)


OWN_METRIC = """
from paretune.objectives.drift import Metric

METRICS = (
    Metric(
        name="{name}",
        unit="1",
        higher_is_better=False,
        best=0.0,
        summary="mean absolute difference",
        source="definition",
        compute=lambda reference, candidate: {factor} * (reference - candidate).abs().mean(dim=(1, 2, 3)),
    ),
)
"""


@pytest.fixture
def no_own_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "_own", {})


@pytest.mark.usefixtures("no_own_metrics")
def test_a_users_own_metrics(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    white, black = torch.ones(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    for factor in (1, 2):  # the second time, the file was changed
        file.write_text(OWN_METRIC.format(name="mean_difference", factor=factor))
        (own,) = load_metrics(file)
        assert own(white, black).tolist() == [factor]
        assert known_metrics() == (*METRICS, own)


@pytest.mark.usefixtures("no_own_metrics")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OWN_METRIC.format(name="psnr_db", factor=1), "there is a metric 'psnr_db' already"),
        (OWN_METRIC.format(name="taken", factor=1), "there is a metric 'taken' already"),
        ("METRICS = (3,)", "3 in METRICS is not a Metric"),
        ("METRICS = 3", "cannot be used: TypeError"),
        ("import nowhere_to_be_found", "cannot be used: ModuleNotFoundError"),
        ("", "cannot be used: AttributeError"),
    ],
)
def test_metric_files_that_cannot_be_used(text: str, expected: str, tmp_path: Path) -> None:
    taken = tmp_path / "taken.py"
    taken.write_text(OWN_METRIC.format(name="taken", factor=1))
    load_metrics(taken)
    before = known_metrics()
    file = tmp_path / "own.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=expected) as caught:
        load_metrics(file)
    assert "\n" not in str(caught.value)
    assert known_metrics() == before
    with pytest.raises(ValueError, match="cannot be used: FileNotFoundError"):
        load_metrics(tmp_path / "missing.py")

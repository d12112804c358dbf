"""Whole pictures: judged as the 8-bit pictures people get, summarised, saved and read back."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from paretune.objectives import drift
from paretune.objectives.drift import METRICS, Metric
from paretune.objectives.pictures import (
    PictureJudgement,
    QualitySummary,
    judge_pictures,
    load_png,
    save_png,
    summarize_pictures,
)
from paretune.objectives.verdict import Verdict
from torch import Tensor


def noisy(picture: Tensor, sigma_lsb: float) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return (picture + torch.randn(picture.shape, generator=generator) * sigma_lsb / 255).clamp(0, 1)


def test_less_than_half_a_step_is_bit_exact(comic: Tensor) -> None:
    (judgement,) = judge_pictures(comic, comic + 0.4 / 255)
    assert judgement.verdict is Verdict.BIT_EXACT
    assert judgement.drift == 0
    assert judgement.metrics == {metric.name: metric.best for metric in METRICS}
    assert (judgement.flags, judgement.broken) == ((), None)


@pytest.mark.parametrize("picture", ["comic", "scene"])
def test_a_ladder_of_noise(picture: str, request: pytest.FixtureRequest) -> None:
    reference: Tensor = request.getfixturevalue(picture)
    ladder = [judge_pictures(reference, noisy(reference, sigma))[0] for sigma in (0, 1, 2, 10)]
    assert [judgement.verdict for judgement in ladder] == list(Verdict)[:4]
    drifts = [judgement.drift for judgement in ladder]
    assert drifts == sorted(drifts)


def blurred(picture: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(picture, [2] * 4, mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, 5, stride=1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda picture: torch.roll(picture, 1, dims=3), Verdict.VISIBLE),  # the safe direction for "lossless"
        (lambda picture: (picture + torch.tensor([6.0, 0, -6]).view(1, 3, 1, 1) / 255).clamp(0, 1), Verdict.VISIBLE),
        (blurred, Verdict.VISIBLE),
        (lambda picture: picture.flip(2), Verdict.DIFFERENT),
        (torch.zeros_like, Verdict.BROKEN),
    ],
)
def test_other_distortions(change: Callable[[Tensor], Tensor], expected: Verdict, scene: Tensor) -> None:
    (judgement,) = judge_pictures(scene, change(scene))
    assert judgement.verdict is expected


def test_nan_is_found_before_it_becomes_black(comic: Tensor) -> None:
    spoilt = comic.clone()
    spoilt[0, 0, 3, 3] = torch.nan
    (judgement,) = judge_pictures(comic, spoilt)
    assert judgement.verdict is Verdict.BROKEN
    assert judgement.drift == 4
    assert judgement.broken is not None
    assert judgement.broken.startswith("non_finite: 1 of")
    assert not any(math.isnan(value) for value in judgement.metrics.values())


def test_a_replaced_object_is_visible_although_the_mean_is_high(scene: Tensor) -> None:
    candidate = scene.repeat(1, 1, 2, 2)
    reference = candidate.clone()
    candidate[:, :, 192:256, 192:256] = candidate[:, :, 192:256, 192:256].flip(1, 2)
    (judgement,) = judge_pictures(reference, candidate)
    assert judgement.metrics["ssim"] > 0.98
    assert judgement.verdict is Verdict.VISIBLE


def test_a_reference_that_is_not_finite_is_refused(comic: Tensor) -> None:
    with pytest.raises(ValueError, match="reference"):
        judge_pictures(comic * torch.nan, comic)


def test_one_broken_picture_breaks_the_configuration(comic: Tensor) -> None:
    reference = comic.repeat(3, 1, 1, 1)
    judgements = judge_pictures(reference, torch.cat([comic, noisy(comic, 1), torch.zeros_like(comic)]))
    summary = summarize_pictures(judgements)
    assert summary.n == 3
    assert summary.verdict is Verdict.BROKEN
    assert summary.drift == 4
    assert summary.median_drift == judgements[1].drift
    assert summary.median_metrics["psnr_db"] == judgements[1].metrics["psnr_db"]
    assert summary.worst_metrics["psnr_db"] == judgements[2].metrics["psnr_db"]
    assert summary.worst_metrics["delta_e_mean"] == judgements[2].metrics["delta_e_mean"]
    assert summary.counts[Verdict.BIT_EXACT] == summary.counts[Verdict.IMPERCEPTIBLE] == 1
    assert summary.broken[0].startswith("picture 2: black: ")
    assert summary.evidence == "1 of 3 broken"
    with pytest.raises(ValueError, match="no judged pictures"):
        summarize_pictures([])


def test_losslessness_is_a_promise_of_every_picture_and_less_one_of_most(comic: Tensor) -> None:
    same, near = judge_pictures(comic.repeat(2, 1, 1, 1), torch.cat([comic, noisy(comic, 2)]))
    (visible,) = judge_pictures(comic, noisy(comic, 10))
    lossless = summarize_pictures([same] * 64)
    assert (lossless.verdict, lossless.drift, lossless.n_reached) == (Verdict.BIT_EXACT, 0, 64)
    assert lossless.failure_rate_bound == pytest.approx(0.0457, abs=1e-4)
    assert (lossless.n_prompts, lossless.n_prompts_reached) == (64, 64)
    assert lossless.evidence.startswith("64 of 64 pictures, 64 of 64 prompts: failure rate of prompts below 4.6 %")
    one_less = summarize_pictures([same] * 63 + [near])
    assert (one_less.verdict, one_less.n_reached) == (Verdict.NEAR_LOSSLESS, 64)
    assert 1 < one_less.drift <= 2
    most = summarize_pictures([near] * 62 + [visible] * 2)
    assert (most.verdict, most.drift, most.n_reached) == (Verdict.NEAR_LOSSLESS, near.drift, 62)
    assert most.evidence.startswith("62 of 64 pictures, 62 of 64 prompts: failure rate of prompts below 9.5 %")
    assert most.worst_metrics["psnr_db"] == visible.metrics["psnr_db"]
    assert summarize_pictures([near] * 6 + [visible]).verdict is Verdict.VISIBLE


def test_the_promise_rests_on_prompts_and_not_on_their_seeds(comic: Tensor) -> None:
    near, visible = judge_pictures(comic.repeat(2, 1, 1, 1), torch.cat([noisy(comic, 2), noisy(comic, 10)]))
    summary = summarize_pictures([near] * 39 + [visible], prompts=["a cat"] * 20 + ["a dog"] * 20)
    assert (summary.verdict, summary.n, summary.n_reached) == (Verdict.NEAR_LOSSLESS, 40, 39)  # the rule is per picture
    assert (summary.n_prompts, summary.n_prompts_reached) == (2, 1)
    assert summary.failure_rate_bound == pytest.approx(0.9747, abs=1e-4)
    assert "1 of 2 prompts" in summary.evidence
    with pytest.raises(ValueError, match="2 pictures need a prompt each"):
        summarize_pictures([near] * 2, prompts=["a cat"])


def test_metrics_computed_elsewhere_take_part(comic: Tensor) -> None:
    reference = comic.repeat(3, 1, 1, 1)
    extra = [{"lpips": 0.0, "own": 7.0}, {"lpips": 0.1}, {"own": 9.0}]
    same, seen, unseen = judge_pictures(reference, torch.cat([comic, noisy(comic, 1), noisy(comic, 1)]), extra=extra)
    assert (same.verdict, same.metrics["lpips"], same.metrics["own"]) == (Verdict.BIT_EXACT, 0.0, 7.0)
    assert seen.verdict is Verdict.VISIBLE  # by LPIPS alone
    assert seen.drift == pytest.approx(2.25)
    assert unseen.verdict is Verdict.IMPERCEPTIBLE
    summary = summarize_pictures([same, seen, unseen], higher_is_better={"own": True})
    assert (summary.worst_metrics["lpips"], summary.worst_metrics["own"]) == (0.1, 7.0)
    assert (summary.median_metrics["lpips"], summary.median_metrics["own"]) == (0.05, 8.0)
    assert summarize_pictures([same, unseen], higher_is_better={"own": False}).worst_metrics["own"] == 9.0
    with pytest.raises(ValueError, match="'own'"):
        summarize_pictures([same])
    with pytest.raises(ValueError, match="of 1 pictures does not belong to 3"):
        judge_pictures(reference, reference, extra=[{}])
    with pytest.raises(ValueError, match="'ssim' is computed here"):
        judge_pictures(comic, comic, extra=[{"ssim": 1.0}])


def test_what_was_found_broken_elsewhere_breaks_the_picture(comic: Tensor) -> None:
    reason = "latents: 1 of 4 values are NaN and 0 infinite"
    sound, broken = judge_pictures(comic.repeat(2, 1, 1, 1), comic.repeat(2, 1, 1, 1), broken=[None, reason])
    assert sound.verdict is Verdict.BIT_EXACT
    assert (broken.verdict, broken.drift, broken.broken, broken.flags) == (Verdict.BROKEN, 4, reason, (reason,))
    with pytest.raises(ValueError, match="of 1 pictures does not belong to 2"):
        judge_pictures(comic.repeat(2, 1, 1, 1), comic.repeat(2, 1, 1, 1), broken=[reason])


def test_a_value_that_is_no_number_counts_against_the_picture(comic: Tensor) -> None:
    (judgement,) = judge_pictures(comic, noisy(comic, 1), extra=[{"lpips": math.nan, "own": -math.inf}])
    assert (judgement.verdict, judgement.drift) == (Verdict.DIFFERENT, 4)
    assert judgement.flags == ("lpips: its value is no number", "own: its value is no number")
    assert judgement.metrics.keys() == {metric.name for metric in METRICS}
    json.dumps(judgement.to_dict(), allow_nan=False)


def test_a_users_own_metric_is_measured(comic: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Metric(
        name="own",
        unit="1",
        higher_is_better=False,
        best=0.0,
        summary="mean absolute difference",
        source="definition",
        compute=lambda reference, candidate: (reference - candidate).abs().mean(dim=(1, 2, 3)),
    )
    monkeypatch.setattr(drift, "_own", {Path("own.py"): (own,)})
    judgements = judge_pictures(comic.repeat(2, 1, 1, 1), torch.cat([comic, noisy(comic, 2)]))
    assert judgements[0].metrics["own"] == 0
    assert summarize_pictures(judgements).worst_metrics["own"] == judgements[1].metrics["own"] > 0


def test_json_without_infinities(comic: Tensor) -> None:
    judgements = judge_pictures(comic.repeat(2, 1, 1, 1), torch.cat([comic, noisy(comic, 2)]))
    summary = summarize_pictures(judgements)
    text = json.dumps([judgements[0].to_dict(), summary.to_dict()], allow_nan=False)
    first, second = json.loads(text)
    assert first["metrics"]["psnr_db"] is None
    assert PictureJudgement.from_dict(first) == judgements[0]
    assert QualitySummary.from_dict(second) == summary
    with pytest.raises(ValueError, match="schema"):
        QualitySummary.from_dict({**second, "schema_version": 99})


def test_png_is_lossless_and_whole(comic: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    save_png(comic[0], path)
    save_png(comic[0], path)  # replaces
    assert torch.equal(load_png(path), comic[0])
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="shape"):
        save_png(comic, path)

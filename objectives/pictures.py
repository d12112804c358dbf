"""Judging pictures against their references: metrics, detectors and verdict of each, and the summary of all.

Pictures are compared as the 8-bit pictures people get; only NaN and infinities are looked for in the floats before.
"""

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor

from . import verdict as verdicts
from .detectors import DETECTORS
from .drift import known_metrics, measure
from .evidence import evidence_words, failure_rate_bound, prompts_reaching
from .images import check_pair, from_uint8, to_uint8
from .verdict import Verdict

PICTURE_SCHEMA_VERSION = 2
SUMMARY_SCHEMA_VERSION = 3


@dataclass(frozen=True)
class PictureJudgement:
    """One picture compared with its reference.

    `metrics` by the metrics' names (PSNR of equal pictures is +inf); `flags` are sentences "detector: reason";
    `broken` is the first reason that breaks the picture, in the same form, or None.
    """

    metrics: Mapping[str, float]
    verdict: Verdict
    drift: float
    flags: tuple[str, ...]
    broken: str | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able. An infinite PSNR (equal pictures, or equal in every tile) is written as null."""
        return {
            "schema_version": PICTURE_SCHEMA_VERSION,
            "metrics": _metrics_to_json(self.metrics),
            "verdict": self.verdict.value,
            "drift": self.drift,
            "flags": list(self.flags),
            "broken": self.broken,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PictureJudgement":
        """The inverse of `to_dict`. Raises ValueError for another schema version."""
        _check_schema(values, PICTURE_SCHEMA_VERSION)
        return cls(
            metrics=_metrics_from_json(values["metrics"]),
            verdict=Verdict(values["verdict"]),
            drift=values["drift"],
            flags=tuple(values["flags"]),
            broken=values["broken"],
        )


@dataclass(frozen=True)
class QualitySummary:
    """All pictures of one configuration. `verdict` and `drift`: see `configuration_verdict` and `configuration_drift`.

    `n_reached` of the `n` pictures are at least at the verdict, and `n_prompts_reached` of the `n_prompts` prompts with
    every one of their pictures; `failure_rate_bound` is the share of other prompts that may not be, at most, with 95 %
    confidence; `evidence` says all this in words. `worst_metrics` takes each metric's worst
    picture, not necessarily the same one; `counts` has every verdict; `flags` and `broken` are sentences
    "picture 3: detector: reason", counted from 0.
    """

    n: int
    verdict: Verdict
    n_reached: int
    n_prompts: int
    n_prompts_reached: int
    failure_rate_bound: float
    evidence: str
    drift: float
    median_drift: float
    median_metrics: Mapping[str, float]
    worst_metrics: Mapping[str, float]
    counts: Mapping[Verdict, int]
    flags: tuple[str, ...]
    broken: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able. An infinite PSNR (equal pictures, or equal in every tile) is written as null."""
        return {
            "schema_version": SUMMARY_SCHEMA_VERSION,
            "n": self.n,
            "verdict": self.verdict.value,
            "n_reached": self.n_reached,
            "n_prompts": self.n_prompts,
            "n_prompts_reached": self.n_prompts_reached,
            "failure_rate_bound": self.failure_rate_bound,
            "evidence": self.evidence,
            "drift": self.drift,
            "median_drift": self.median_drift,
            "median_metrics": _metrics_to_json(self.median_metrics),
            "worst_metrics": _metrics_to_json(self.worst_metrics),
            "counts": {verdict.value: count for verdict, count in self.counts.items()},
            "flags": list(self.flags),
            "broken": list(self.broken),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "QualitySummary":
        """The inverse of `to_dict`. Raises ValueError for another schema version."""
        _check_schema(values, SUMMARY_SCHEMA_VERSION)
        return cls(
            n=values["n"],
            verdict=Verdict(values["verdict"]),
            n_reached=values["n_reached"],
            n_prompts=values["n_prompts"],
            n_prompts_reached=values["n_prompts_reached"],
            failure_rate_bound=values["failure_rate_bound"],
            evidence=values["evidence"],
            drift=values["drift"],
            median_drift=values["median_drift"],
            median_metrics=_metrics_from_json(values["median_metrics"]),
            worst_metrics=_metrics_from_json(values["worst_metrics"]),
            counts={Verdict(name): count for name, count in values["counts"].items()},
            flags=tuple(values["flags"]),
            broken=tuple(values["broken"]),
        )


def judge_pictures(
    reference_BCHW: Tensor,
    candidate_BCHW: Tensor,
    *,
    extra: Sequence[Mapping[str, float]] | None = None,
    broken: Sequence[str | None] | None = None,
    thresholds: Sequence[verdicts.Thresholds] = verdicts.THRESHOLDS,
) -> list[PictureJudgement]:
    """Compare B pairs of pictures, floats (B, 3, H, W) in [0, 1], on any device -> B judgements.

    `extra`: per picture, values of metrics that were computed elsewhere; where `THRESHOLDS` has a row they take part in
    the verdict. `broken`: per picture, "detector: reason" when something else than its pixels shows that it is broken.
    `thresholds`: the table of the verdict. Raises ValueError when the shapes differ or are not pictures, when one of
    these does not fit, and when the reference itself is not finite: nothing can be compared with it.
    """
    check_pair(reference_BCHW, candidate_BCHW)
    if not reference_BCHW.isfinite().all():
        raise ValueError("the reference holds NaN or infinite values: nothing can be compared with it")
    extra = [{}] * len(candidate_BCHW) if extra is None else extra
    broken = [None] * len(candidate_BCHW) if broken is None else broken
    for what in (extra, broken):
        if len(what) != len(candidate_BCHW):
            raise ValueError(f"what is known of {len(what)} pictures does not belong to {len(candidate_BCHW)} pictures")
    # One at a time: the float64 maps of a whole batch of large pictures would take gigabytes.
    pairs = zip(reference_BCHW.split(1), candidate_BCHW.split(1), extra, broken, strict=True)
    return [_judge_picture(*pair, thresholds) for pair in pairs]


def another_size(reference_CHW: Tensor, candidate_CHW: Tensor) -> PictureJudgement:
    """The judgement on a picture that has another size than its reference, so that nothing can be compared."""
    (height, width), (was_height, was_width) = candidate_CHW.shape[-2:], reference_CHW.shape[-2:]
    reason = f"size: the picture has {width} x {height} px, before {was_width} x {was_height}"
    return PictureJudgement({}, Verdict.BROKEN, verdicts.MAX_DRIFT, (reason,), reason)


def summarize_pictures(
    judgements: Sequence[PictureJudgement],
    *,
    prompts: Sequence[str] | None = None,
    higher_is_better: Mapping[str, bool] = {},
) -> QualitySummary:
    """Summarise the pictures of one configuration.

    `prompts`: which prompt each picture is of, in any words; when it is not given, each is of a prompt of its own.
    `higher_is_better` gives the direction of metrics that were computed elsewhere. A metric that some pictures lack is
    summarised over those that have it. Raises ValueError when there are no pictures, when there is not a prompt for
    each, or for a metric without direction.
    """
    if not judgements:
        raise ValueError("no judged pictures to summarise")
    rising = {row.metric: row.higher_is_better for row in verdicts.THRESHOLDS}
    rising |= {metric.name: metric.higher_is_better for metric in known_metrics()}
    rising |= higher_is_better
    names = dict.fromkeys(name for j in judgements for name in j.metrics)
    for name in names:
        if name not in rising:
            raise ValueError(f"whether more of the metric {name!r} is better was not said")
    values = {name: [j.metrics[name] for j in judgements if name in j.metrics] for name in names}
    each = [j.verdict for j in judgements]
    verdict = verdicts.configuration_verdict(each)
    prompts = [str(number) for number in range(len(each))] if prompts is None else prompts
    n_prompts_reached, n_prompts = prompts_reaching(each, verdict, prompts)
    return QualitySummary(
        n=len(each),
        verdict=verdict,
        n_reached=sum(one.at_least(verdict) for one in each),
        n_prompts=n_prompts,
        n_prompts_reached=n_prompts_reached,
        failure_rate_bound=failure_rate_bound(n_prompts, n_prompts - n_prompts_reached),
        evidence=evidence_words(each, verdict, prompts),
        drift=verdicts.configuration_drift([j.drift for j in judgements], verdict is Verdict.BROKEN),
        median_drift=statistics.median(j.drift for j in judgements),
        median_metrics={name: statistics.median(column) for name, column in values.items()},
        worst_metrics={name: min(c) if rising[name] else max(c) for name, c in values.items()},
        counts={verdict: sum(j.verdict is verdict for j in judgements) for verdict in Verdict},
        flags=tuple(f"picture {i}: {flag}" for i, j in enumerate(judgements) for flag in j.flags),
        broken=tuple(f"picture {i}: {j.broken}" for i, j in enumerate(judgements) if j.broken is not None),
    )


def save_png(image_CHW: Tensor, path: str | Path) -> None:
    """Write floats (3, H, W) in [0, 1] as a lossless 8-bit RGB PNG, whole or not at all.

    Raises ValueError for another shape.
    """
    if image_CHW.ndim != 3 or image_CHW.shape[0] != 3:
        raise ValueError(f"a picture has shape (3, H, W), not {tuple(image_CHW.shape)}")
    path = Path(path)
    pixels_HWC = numpy.ascontiguousarray(to_uint8(image_CHW).permute(1, 2, 0).numpy())
    # In the same folder, because os.replace is atomic only within a file system; named by process, because two may
    # write the same picture.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            # Level 4 makes files as small as the default, 6, in half the time; level 1 is faster still, 20 % larger.
            Image.fromarray(pixels_HWC).save(file, format="PNG", compress_level=4)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_png(path: str | Path) -> Tensor:
    """Read a picture as float32 (3, H, W) in [0, 1]; what `save_png` wrote comes back to the level."""
    with Image.open(path) as image:
        pixels_HWC = numpy.array(image.convert("RGB"))
    return from_uint8(torch.from_numpy(pixels_HWC).permute(2, 0, 1).contiguous())


def _judge_picture(
    reference_1CHW: Tensor,
    candidate_1CHW: Tensor,
    extra: Mapping[str, float],
    broken: str | None,
    thresholds: Sequence[verdicts.Thresholds],
) -> PictureJudgement:
    reference_u8, candidate_u8 = to_uint8(reference_1CHW), to_uint8(candidate_1CHW)
    reference, candidate = from_uint8(reference_u8), from_uint8(candidate_u8)
    if torch.equal(reference_u8, candidate_u8):  # metrics of equal pictures are known, and most of the cost
        metrics = {metric.name: metric.best for metric in known_metrics()}
    else:
        metrics = {name: float(value[0]) for name, value in measure(known_metrics(), reference, candidate).items()}
    for name in extra:
        if name in metrics:
            raise ValueError(f"the metric {name!r} is computed here: its value cannot come from elsewhere")
    metrics |= extra
    flags = [] if broken is None else [broken]
    flagged: list[str] = []
    for detector in DETECTORS:
        before, after = (reference_1CHW, candidate_1CHW) if detector.raw else (reference, candidate)
        reason = detector(before, after)[0]
        if reason is None:
            continue
        sentence = f"{detector.name}: {reason}"
        if detector.breaks:
            broken = broken or sentence
        flags.append(sentence)
        flagged.append(detector.name)
    # What is no number counts against the picture, but has no place among the metrics: neither order nor JSON knows it.
    numbers = {name: value for name, value in metrics.items() if value > -math.inf}
    flags.extend(f"{name}: its value is no number" for name in metrics if name not in numbers)
    return PictureJudgement(
        metrics=numbers,
        verdict=verdicts.judge(metrics, broken is not None, flagged, thresholds),
        drift=verdicts.drift(metrics, broken is not None, flagged, thresholds),
        flags=tuple(flags),
        broken=broken,
    )


def _metrics_to_json(metrics: Mapping[str, float]) -> dict[str, float | None]:
    # JSON has no infinity, and Python's default of writing one anyway breaks other readers.
    return {name: None if value == math.inf else value for name, value in metrics.items()}


def _metrics_from_json(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.inf if value is None else value for name, value in metrics.items()}


def _check_schema(values: Mapping[str, Any], readable: int) -> None:
    version = values.get("schema_version")
    if version != readable:
        raise ValueError(f"quality schema {version!r} cannot be read: this version reads {readable}")

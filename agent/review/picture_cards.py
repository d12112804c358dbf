"""The pictures of a report: which ones are shown, and their captions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...objectives.measuring import VARIANT, VARIANT_SEEDS
from ..results import Results, Trial
from ..trial import PICTURES
from .pictures import InlinedPictures

LEARNED_WORDS = {
    "lpips": "LPIPS",
    "dreamsim": "DreamSim",
    "clip_i": "CLIP-I",
    "clip_score": "CLIPScore",
    "pick_score": "PickScore",
    "hpsv2": "HPS v2",
    "image_reward": "ImageReward",
}
"""Metrics that need a model's weights."""
_METRICS = (
    ("ssimulacra2", "SSIMULACRA2 {}", 1),
    ("psnr_db", "PSNR {} dB", 1),
    ("worst_tile_psnr_db", "worst tile {} dB", 1),
    ("ssim", "SSIM {}", 3),
    ("delta_e_mean", "ΔE00 {}", 2),
)


@dataclass(frozen=True)
class Card:
    """One picture with its caption."""

    title: str
    uri: str
    alt: str
    verdict: str
    lines: list[str]
    configuration: str


@dataclass(frozen=True)
class RequestCards:
    """The pictures of one request: the reference's first."""

    name: str
    details: str
    prompt: str
    cards: list[Card]


@dataclass(frozen=True)
class _Shown:
    """One picture of a request, and the trials that it is shown of."""

    request: Mapping[str, Any]
    index: int
    """In the batch."""
    variant: int
    """0 for the request as it is written, else the number of the other seeds."""
    trials: Sequence[Trial]

    @property
    def file(self) -> str:
        return f"{self.request['name']}{f'{VARIANT}{self.variant}' if self.variant else ''}-{self.index}.png"


def shown_files(results: Results, trials: Sequence[Trial]) -> list[Path]:
    """The files of every picture that the report shows of these trials."""
    return [_path(trial, one.file) for one in _shown(results, trials) for trial in one.trials]


def request_cards(results: Results, trials: Sequence[Trial], inlined: InlinedPictures) -> Iterator[RequestCards]:
    """The cards, request by request; what is not in `inlined` is left out."""
    for one in _shown(results, trials):
        cards = [
            _card(results, trial, one, inlined.uris[_path(trial, one.file)])
            for trial in one.trials
            if _path(trial, one.file) in inlined.uris
        ]
        if cards:
            batch = one.request["batch"]
            name = one.request["name"] + (f" (picture {one.index + 1} of {batch})" if batch > 1 else "")
            if one.variant:
                name += ", with another seed"
            yield RequestCards(name, _details(one), one.request["prompt"], cards)


def not_assessed(results: Results) -> list[str]:
    """What the pictures were not judged by: "LPIPS, DreamSim (no weights given)"."""
    by_reason: dict[str, dict[str, None]] = {}
    for trial in results.complete:
        for name, reason in trial.quality.get("not_assessed", {}).items():
            by_reason.setdefault(reason, {})[LEARNED_WORDS.get(name, name)] = None
    return [f"{', '.join(names)} ({reason})" for reason, names in by_reason.items()]


def _path(trial: Trial, file: str) -> Path:
    return trial.pictures_folder / PICTURES / file


def _shown(results: Results, trials: Sequence[Trial]) -> Iterator[_Shown]:
    """Every request as it is written; then the other seeds that are the worst picture of a trial."""
    requests = results.study.workload_description()["requests"]
    for request in requests:
        for index in range(request["batch"]):
            yield _Shown(request, index, 0, trials)
    worst_of: dict[str, list[Trial]] = {}
    for trial in trials:
        if (file := _worst(trial)) is not None:
            worst_of.setdefault(file, []).append(trial)
    for request in requests:
        for file, theirs in worst_of.items():
            name, variant, rest = file.partition(VARIANT)
            if name == request["name"] and variant:
                number, _, index_png = rest.partition("-")
                index = int(index_png.removesuffix(".png"))
                yield _Shown(request, index, int(number), [results.reference, *theirs])


def _worst(trial: Trial) -> str | None:
    """The picture that drifted most, by file; None when none did."""
    judged = trial.quality.get("pictures", [])
    worst = max(judged, key=lambda picture: (bool(picture["broken"]), picture["drift"]), default=None)
    return None if worst is None or not (worst["broken"] or worst["drift"]) else str(worst["file"])


def _details(one: _Shown) -> str:
    request = one.request
    seed = request["seed"] + one.index + VARIANT_SEEDS * one.variant
    size = f"{request['width_px']} × {request['height_px']} px"
    return f"{size}, {request['steps']} steps, guidance {request['guidance']:g}, seed {seed}"


def _card(results: Results, trial: Trial, one: _Shown, uri: str) -> Card:
    is_reference = trial is results.reference
    title = "reference" if is_reference else f"trial {trial.number}"
    if trial is results.best_or_none and not is_reference:
        title = f"best, {title}"
    elif not trial.acceptable:
        title = f"{title}, breaks a limit"
    pictures = trial.quality.get("pictures", [])
    judged = next((picture for picture in pictures if picture["file"] == one.file), None)
    if any(picture["file"] == one.file for picture in trial.no_evidence):
        lines = ["left out of every comparison: the reference's shows nothing"]
    elif judged is None or is_reference:
        lines = ["what the others are compared with" if is_reference else "not judged"]
    else:
        lines = [_metrics(judged["metrics"]), *_qualities(judged), *(f"flagged: {flag}" for flag in judged["flags"])]
        if one.file == _worst(trial) and len(pictures) > 1:
            lines.append(f"the worst of its {len(pictures)} pictures")
    lines += [
        f"rated {rating.rating} by {rating.rater}, {rating.rated_at[:10]}"
        for rating in results.ratings
        if rating.trial == trial.number and rating.picture == one.file
    ]
    return Card(
        title=title,
        uri=uri,
        alt=f"{title}, request {one.request['name']}: {one.request['prompt']}",
        verdict="" if judged is None or is_reference else str(judged["verdict"]),
        lines=lines,
        configuration=str(trial.configuration),
    )


def _metrics(metrics: Mapping[str, float | None]) -> str:
    if metrics.get("max_abs_difference_lsb") == 0:
        return "every pixel is equal"
    units = (*_METRICS, *((name, f"{label} {{}}", 3) for name, label in LEARNED_WORDS.items()))
    known = [(unit, digits, metrics[name]) for name, unit, digits in units if name in metrics]
    # None is infinity: equal in that metric.
    return ", ".join(unit.format("∞" if value is None else f"{value:.{digits}f}") for unit, digits, value in known)


def _qualities(judged: Mapping[str, Any]) -> list[str]:
    """What a model thinks of the picture alone, beside the reference's."""
    return [
        f"{LEARNED_WORDS.get(name, name)} {sides['candidate']:.3f}, the reference's {sides['reference']:.3f}"
        for name, sides in judged.get("quality", {}).items()
    ]

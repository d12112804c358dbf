"""Judges pictures: each one against its reference, and a configuration by all of them.

Importing this module does not import torch: what handles pictures is imported when it is needed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .measuring import VARIANT
from .verdict import Verdict, own_thresholds


@dataclass(frozen=True)
class Judge:
    """What pictures are judged with.

    weights: {learned metric: path of its weights}; metric_files: Python files with a user's own metrics. device: where
    learned metrics run. near_lossless: {metric: threshold} instead of the table's own. Nothing is downloaded: a metric
    without weights is listed as not assessed.
    """

    weights: Mapping[str, str] = field(default_factory=dict)
    metric_files: Sequence[str] = ()
    device: str = "cpu"
    near_lossless: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def _learned(self) -> dict[str, tuple[Any, Callable[..., Any]]]:
        from .drift import load_metrics
        from .learned import learned_metric

        for file in self.metric_files:
            load_metrics(Path(file))
        metrics = {name: learned_metric(name) for name in self.weights}
        return {name: (metric, self._load(name, metric)) for name, metric in metrics.items()}

    def _load(self, name: str, metric: Any) -> Callable[..., Any]:
        """The metric's scorer, which reads its weights when it is first called.

        The pipelines may still fill the GPU, which is not the pictures' fault: then it runs on the CPU.
        """
        import torch

        path = Path(self.weights[name])
        scorer: Callable[..., Any] | None = None

        def score(*arguments: Any) -> Any:
            nonlocal scorer
            try:
                scorer = scorer or metric.load(path, self.device)
                return scorer(*arguments)
            except torch.OutOfMemoryError:
                scorer = metric.load(path, "cpu")
                return scorer(*arguments)

        return score

    def not_assessed(self) -> dict[str, str]:
        """Every learned metric that has no weights here, with the reason."""
        from .learned import LEARNED

        return {metric.name: "no weights given" for metric in LEARNED if metric.name not in self.weights}

    def judge_file(
        self, candidate_CHW: Any, reference_CHW: Any, prompt: str, latents: Any = None, reference_latents: Any = None
    ) -> dict[str, Any]:
        """One picture against its reference, JSON-able; both floats (3, H, W) in [0, 1].

        latents: what each of them was decoded from, of any shape; None where that was not kept.
        "no_evidence" says why the reference shows nothing, where it does: then the judgement means nothing either.
        """
        from .detectors import shows_nothing
        from .latents import broken_latents
        from .pictures import another_size, judge_pictures

        if candidate_CHW.shape != reference_CHW.shape:
            return another_size(reference_CHW, candidate_CHW).to_dict()
        candidate, reference = candidate_CHW[None], reference_CHW[None]
        learned = self._learned
        drifts = {
            name: float(score(reference, candidate, [prompt])[0])
            for name, (metric, score) in learned.items()
            if metric.kind == "drift"
        }
        broken = None if latents is None else broken_latents(latents)
        drifts |= _latent_metrics(reference_latents, latents)
        (judgement,) = judge_pictures(
            reference, candidate, extra=[drifts], broken=[broken], thresholds=own_thresholds(self.near_lossless)
        )
        qualities = {
            name: {
                "candidate": float(score(None, candidate, [prompt])[0]),
                "reference": float(score(None, reference, [prompt])[0]),
            }
            for name, (metric, score) in learned.items()
            if metric.kind == "quality"
        }
        empty = shows_nothing(reference_CHW)
        return {
            **judgement.to_dict(),
            **({"quality": qualities} if qualities else {}),
            **({"no_evidence": empty} if empty is not None else {}),
        }

    def sum_up(self, pictures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The quality of a configuration from its judged pictures, with the pictures in it.

        Those whose reference shows nothing are set apart, under "no_evidence". Without any other there is no verdict.
        """
        from .latents import HIGHER_IS_BETTER
        from .pictures import PictureJudgement, summarize_pictures

        apart = [dict(picture) for picture in pictures if picture.get("no_evidence")]
        pictures = [dict(picture) for picture in pictures if not picture.get("no_evidence")]
        if not pictures:
            return {**_NOTHING_JUDGED, "no_evidence": apart, "not_assessed": self.not_assessed()}
        directions = HIGHER_IS_BETTER | {name: metric.higher_is_better for name, (metric, _) in self._learned.items()}
        summary = summarize_pictures(
            [PictureJudgement.from_dict(p) for p in pictures], prompts=_prompts(pictures), higher_is_better=directions
        )
        first_broken = next((f"{p['file']}: {p['broken']}" for p in pictures if p["broken"]), None)
        return {
            **summary.to_dict(),
            "pictures": pictures,
            "no_evidence": apart,
            "first_broken": first_broken,
            "quality": _mean_quality(pictures),
            "not_assessed": self.not_assessed(),
        }


_NOTHING_JUDGED: Mapping[str, Any] = {
    "n": 0,
    "verdict": Verdict.NOT_ASSESSED.value,
    "drift": None,
    "worst_metrics": {},
    "pictures": [],
    "first_broken": None,
    "quality": {},
}


def _latent_metrics(reference: Any, candidate: Any) -> dict[str, float]:
    """None where latents are missing, of another shape, or not finite (which is said elsewhere)."""
    from .latents import broken_latents, compare_latents

    if reference is None or candidate is None or reference.shape != candidate.shape:
        return {}
    return {} if broken_latents(reference) or broken_latents(candidate) else compare_latents(reference, candidate)


def _prompts(pictures: Sequence[Mapping[str, Any]]) -> list[str]:
    """The prompt of each picture; where some picture has none, the name of its request instead, whatever the seed."""
    if all("prompt" in picture for picture in pictures):
        return [str(picture["prompt"]) for picture in pictures]
    return [str(picture["request"]).partition(VARIANT)[0] for picture in pictures]


def _mean_quality(pictures: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean of every quality metric, for the candidate and the reference."""
    names = dict.fromkeys(name for picture in pictures for name in picture.get("quality", {}))
    means = {}
    for name in names:
        values = [picture["quality"][name] for picture in pictures if name in picture.get("quality", {})]
        means[name] = {side: sum(v[side] for v in values) / len(values) for side in ("candidate", "reference")}
    return means

"""Whether the reference repeats itself: what does not cannot be compared with anything."""

from collections.abc import Mapping
from typing import Any

from ...objectives.judging import Judge
from ...objectives.measuring import Made
from ...objectives.verdict import EQUALITY_METRIC, Verdict
from .judge import picture_file

LEAST = Verdict.IMPERCEPTIBLE
"""Kernels that add up in another order every time may move pictures so far; a missing seed makes other ones."""
ADVICE = (
    "the same request has to give the same picture, so take every random number from the request's seed "
    "(generator=torch.Generator().manual_seed(request.seed)), or switch on deterministic kernels"
)


def judge_repeats(made: Made) -> dict[str, Any] | None:
    """How far repetitions of the same requests are from what these gave first, summed up as pictures are; None where
    all are equal. `file` is the worst picture.
    """
    judge = Judge()
    judged = [
        # What a picture shows does not matter here.
        {**judge.judge_file(again, first, ""), "file": picture_file(name, index), "request": name, "no_evidence": None}
        for name, repeats in made.repeats.items()
        for index, (again, first) in enumerate(zip(repeats, made.pictures[name], strict=True))
    ]
    return repetition(judge.sum_up(judged)) if judged else None


def repetition(quality: Mapping[str, Any]) -> dict[str, Any] | None:
    """What counts of the judgement on pictures that should be equal; None where they are, or none was judged."""
    if not quality["pictures"] or quality["drift"] == 0:
        return None
    worst = max(quality["pictures"], key=lambda picture: float(picture["drift"]))
    return {**{key: quality[key] for key in ("n", "verdict", "drift", "worst_metrics")}, "file": worst["file"]}


def too_far(found: Mapping[str, Any] | None) -> bool:
    """Whether a `repetition` is so far off that nothing can be compared with the reference."""
    return found is not None and not Verdict(found["verdict"]).at_least(LEAST)


def repetition_words(found: Mapping[str, Any]) -> str:
    """ "different, cat-0.png most, by up to 203 of 255 levels"."""
    levels = found["worst_metrics"].get(EQUALITY_METRIC)
    by = "" if levels is None else f", by up to {levels:.0f} of 255 levels"
    return f"{found['verdict']}, {found['file']} most{by}"

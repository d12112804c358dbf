"""What people said of a study's pictures, beside what its metrics say of them."""

from dataclasses import asdict, dataclass
from typing import Any

from ...objectives.people import WORSE, Opinion, Threshold, agreement, ranks_as_people, threshold, too_few
from ...objectives.verdict import own_thresholds
from .results import Results


@dataclass(frozen=True, kw_only=True)
class MetricBesidePeople:
    """One metric of the verdict."""

    metric: str
    higher_is_better: bool
    now: float | None
    """Its near-lossless threshold today."""
    predicts: float | None
    """The chance that it tells a picture that people call worse from one that they do not; 0.5 is chance."""
    found: Threshold | None
    too_few: str | None
    """Why there is no threshold."""


@dataclass(frozen=True, kw_only=True)
class PeopleSaid:
    """Everything that the blind ratings of a study come to: who knows which picture is whose sees what they expect."""

    ratings: int
    open_ratings: int
    """Those that were not given blind. Nothing else here counts them."""
    pictures: int
    raters: list[str]
    agreement: float | None
    """Krippendorff's alpha; None where no two people rated the same picture."""
    metrics: list[MetricBesidePeople]

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-able."""
        return asdict(self)


def people_said(results: Results) -> PeopleSaid:
    """Of what the database has now."""
    rated = results.records.ratings(results.name, blind=True)
    known_blind = {one.id for one in rated}
    judged = {
        (trial.number, str(picture["file"])): picture["metrics"]
        for trial in results.complete
        if not trial.is_reference
        for picture in trial.quality.get("pictures", ())
    }
    known = [one for one in rated if (one.trial, one.picture) in judged]
    by_picture: dict[tuple[int, str], list[str]] = {}
    for one in known:
        by_picture.setdefault((one.trial, one.picture), []).append(one.rating)
    metrics = []
    for row in own_thresholds({str(name): value for name, value in results.study.quality.near_lossless.items()}):
        opinions = []
        for one in known:
            values = judged[one.trial, one.picture]
            if row.metric in values:
                value = values[row.metric]  # None is infinity: equal in that metric
                opinions.append(
                    Opinion((one.trial, one.picture), one.rating == WORSE, row.best if value is None else float(value))
                )
        if not opinions:
            continue
        few = too_few(opinions)
        few = few or (None if len({one.value for one in opinions}) > 1 else "every picture has the same value")
        higher = row.higher_is_better
        metrics.append(
            MetricBesidePeople(
                metric=row.metric,
                higher_is_better=higher,
                now=row.near_lossless,
                predicts=ranks_as_people(opinions, higher_is_better=higher),
                found=None if few else threshold(opinions, higher_is_better=higher),
                too_few=few,
            )
        )
    return PeopleSaid(
        ratings=len(known),
        open_ratings=sum(one.id not in known_blind for one in results.records.ratings(results.name)),
        pictures=len(by_picture),
        raters=sorted({one.rater for one in known}),
        agreement=agreement(list(by_picture.values())),
        metrics=metrics,
    )

"""What `paretune calibrate` prints, and the settings that it writes into a study."""

from ..results import MetricBesidePeople, PeopleSaid

LEAST_AGREEMENT = 0.6
"""A threshold that agrees less with the ratings than this, of 1, is chance rather than a threshold."""


def calibration_lines(said: PeopleSaid) -> list[str]:
    """How many rated, how far they agree, and a line per metric."""
    apart = f" ({said.open_ratings} more were not given blind, and do not count)" if said.open_ratings else ""
    if not said.ratings:
        return [f"Nobody has rated a picture of this study blind yet: paretune dashboard has a mode for that{apart}"]
    agree = "no picture was rated by two people" if said.agreement is None else f"alpha {said.agreement:.2f}"
    people = f"{len(said.raters)} {'person' if len(said.raters) == 1 else 'people'}"
    counted = f"{said.ratings} rating{'s' if said.ratings != 1 else ''}"
    pictures = f"{said.pictures} picture{'s' if said.pictures != 1 else ''}"
    lines = [f"{counted} of {pictures} by {people}{apart}; agreement: {agree}"]
    return [*lines, *(_line(one) for one in said.metrics)]


def calibration_settings(said: PeopleSaid) -> list[str]:
    """`--set` settings of the thresholds that agree with the ratings; only of metrics that near-lossless asks of."""
    return [
        f"quality.near_lossless.{one.metric}={one.found.value:.4g}"
        for one in said.metrics
        if one.found is not None and one.now is not None and one.found.agrees >= LEAST_AGREEMENT
    ]


def _line(one: MetricBesidePeople) -> str:
    sign = ">=" if one.higher_is_better else "<="
    now = "nothing" if one.now is None else f"{sign} {one.now:g}"
    if one.found is None:
        return f"  {one.metric}: {one.too_few} (near-lossless asks for {now})"
    found = one.found
    unsure = "" if found.agrees >= LEAST_AGREEMENT else "; hardly better than chance, so it is not written"
    return (
        f"  {one.metric}: {sign} {found.value:.4g} (95 % interval {found.low:.4g} to {found.high:.4g}), agrees with "
        f"{100 * found.agrees:.0f} % of the ratings{unsure} (near-lossless asks for {now})"
    )

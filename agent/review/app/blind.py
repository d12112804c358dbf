"""Blind rating: pairs whose sides are hidden and shuffled, the least rated ones first."""

import random
import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from ....studies import RatingRecord
from ...results import Results
from .pictures_page import names_of, pictured

MOST_OPEN = 5000
"""Pairs that are kept while nobody has rated them."""


@dataclass(frozen=True)
class Pair:
    """One picture of one trial beside the reference's."""

    study: str
    trial: int
    file: str
    reference_left: bool

    def rating(self, answer: str) -> str:
        """What "left", "same" or "right" is better comes to for the trial's picture."""
        if answer == "same":
            return "same"
        return "worse" if (answer == "left") == self.reference_left else "better"


class Blind:
    """The pairs that are open in one running server, under names that say nothing of them."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Pair] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, pair: Pair) -> str:
        """Returns the name of the pair."""
        name = secrets.token_urlsafe(12)
        with self._lock:
            self._open[name] = pair
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        return name

    def pair(self, name: str) -> Pair | None:
        """None for a name that was not given, or long ago."""
        with self._lock:
            return self._open.get(name)


def candidates(results: Results, trial: int | None) -> list[tuple[int, str]]:
    """The pictures that can be rated, as (trial, file): those that differ from the reference's at all."""
    reference, found = names_of(results.reference), []
    for one in pictured(results):
        if trial is None or one.number == trial:
            there = reference & names_of(one)
            drifted = [str(picture["file"]) for picture in one.quality["pictures"] if picture["drift"] > 0]
            found += [(one.number, file) for file in drifted if file in there]
    return found


def next_pair(
    study: str, pictures: Sequence[tuple[int, str]], ratings: Sequence[RatingRecord], rater: str
) -> Pair | None:
    """One that this person has not rated, of those that fewest people have; None when none is left."""
    own = {(one.trial, one.picture) for one in ratings if one.rater == rater}
    counts = Counter((one.trial, one.picture) for one in ratings)
    left = [one for one in pictures if one not in own]
    if not left:
        return None
    fewest = min(counts[one] for one in left)
    number, file = random.choice([one for one in left if counts[one] == fewest])
    return Pair(study, number, file, random.random() < 0.5)

"""What people say: rating blind, and what the ratings come to beside the metrics."""

from collections import Counter
from typing import Any, Literal

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel

from ....objectives.people import LEAST_OF_EACH, LEAST_PICTURES, LEAST_RATINGS
from ....studies import RATINGS
from ...results import people_said
from ..report import METRIC_WORDS
from .blind import Blind, Pair, candidates, next_pair
from .pages import render, shelf_of
from .people import Person
from .picture_files import picture_file, png_of
from .pictures_page import pictured, request_of
from .trial_page import trial_of

router = APIRouter()


class Answer(BaseModel):
    """Which of a pair is better, says who."""

    better: Literal["left", "same", "right"]
    by: Person


class Next(BaseModel):
    """Who wants a pair, and of which trial; None for any."""

    by: Person
    trial: int | None = None


@router.get("/studies/{study}/ratings")
def ratings(request: Request, study: str) -> HTMLResponse:
    """What was said, by trial and by metric."""
    shelf = shelf_of(request)
    with shelf.open(study) as results:
        known = shelf.records.ratings(study)
        blind_ones = shelf.records.ratings(study, blind=True)
        given_blind = {one.id for one in blind_ones}
        counts: dict[int, Counter[str]] = {}
        for one in blind_ones:
            counts.setdefault(one.trial, Counter())[one.rating] += 1
        for one in known:
            if one.id not in given_blind:
                counts.setdefault(one.trial, Counter())["open"] += 1
        return render(
            request,
            "ratings.html.j2",
            study=study,
            tab=f"/studies/{study}/ratings",
            assessed=results.quality_assessed,
            said=people_said(results),
            kinds=RATINGS,
            trials=[
                (results.numbered[number], counts[number]) for number in sorted(counts) if number in results.numbered
            ],
            metric_words=METRIC_WORDS,
            least=(LEAST_RATINGS, LEAST_PICTURES, LEAST_OF_EACH),
        )


@router.get("/studies/{study}/blind")
def blind(request: Request, study: str, trial: int | None = None) -> HTMLResponse:
    """The page on which pairs are rated."""
    with shelf_of(request).open(study) as results:
        return render(
            request,
            "blind.html.j2",
            study=study,
            tab=f"/studies/{study}/ratings",
            trials=[one.number for one in pictured(results)] if results.quality_assessed else [],
            page={"study": study, "trial": trial},
        )


@router.post("/studies/{study}/blind")
def begin(request: Request, study: str, wanted: Next) -> dict[str, Any]:
    """The next pair for somebody: nothing of it says which side is whose."""
    shelf = shelf_of(request)
    with shelf.open(study) as results:
        pictures = candidates(results, wanted.trial) if results.quality_assessed else []
        known = shelf.records.ratings(study, blind=True)
        own = {(one.trial, one.picture) for one in known if one.rater == wanted.by}
        pair = next_pair(study, pictures, known, wanted.by)
        counts = {"done": len(own & set(pictures)), "total": len(pictures)}
        if pair is None:
            return {"pair": None, **counts}
        request_words = request_of(results, pair.file)
    name = blind_of(request).begin(pair)
    base = f"/studies/{study}/blind/{name}"
    return {"pair": name, "left": f"{base}/left", "right": f"{base}/right", "prompt": request_words["prompt"], **counts}


@router.get("/studies/{study}/blind/{pair}/{side}")
def side(request: Request, study: str, pair: str, side: Literal["left", "right"]) -> Response:
    """The picture on one side of a pair."""
    found = _pair(request, study, pair)
    with shelf_of(request).open(study) as results:
        reference = (side == "left") == found.reference_left
        file = picture_file(results.reference if reference else trial_of(results, found.trial), found.file)
    answer = png_of(file)
    answer.headers["Cache-Control"] = "no-store"
    return answer


@router.post("/studies/{study}/blind/{pair}")
def rate(request: Request, study: str, pair: str, answer: Answer) -> dict[str, Any]:
    """Store what somebody says of a pair."""
    found = _pair(request, study, pair)
    shelf_of(request).records.rate(study, found.trial, found.file, found.rating(answer.better), answer.by, blind=True)
    return {"stored": True}


def blind_of(request: Request) -> Blind:
    """The server's open pairs."""
    found: Blind = request.app.state.blind
    return found


def _pair(request: Request, study: str, name: str) -> Pair:
    found = blind_of(request).pair(name)
    if found is None or found.study != study:
        raise HTTPException(404, "This pair is no longer open: ask for the next one.")
    return found

"""The front of a study: any two figures against each other, under limits that can be moved, and three picks."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from ....objectives.verdict import Verdict
from ....studies import UserError
from ...results import Limit, floor_note, headline, limit_words, study_doubts
from .pages import render, shelf_of
from .picks import picks
from .points import MEMORIES_GIB, axes, floors, points
from .shelf import storage_words
from .summaries import is_running, workload_words

router = APIRouter()
MOST_ROWS = 300
"""Of the table, until all are asked for: a browser takes a second to lay out thousands."""
VERDICTS = [str(verdict) for verdict in Verdict if verdict not in (Verdict.BROKEN, Verdict.NOT_ASSESSED)]


@router.get("/studies/{study}")
def front(request: Request, study: str) -> HTMLResponse:
    """The page. Its state is in the address, and applied in the browser."""
    shelf = shelf_of(request)
    with shelf.open(study) as results:
        found = points(results)
        return render(
            request,
            "front.html.j2",
            plots=True,
            study=study,
            tab=f"/studies/{study}",
            headline=headline(results),
            doubts=[str(doubt) for doubt in study_doubts(results)],
            floor_note=floor_note(results),
            limits=limit_words(results.study),
            results=results,
            workload=workload_words(results),
            running=is_running(shelf, study),
            points=sorted(found, key=lambda point: point.figures["latency_ms"]),
            failures=[_failure(trial) for trial in results.failures],
            verdicts=VERDICTS,
            memories=MEMORIES_GIB,
            page={
                "study": study,
                "points": [asdict(point) for point in found],
                "axes": axes(found),
                "floors": floors(results),
                "verdicts": VERDICTS,
                "assessed": results.quality_assessed,
                "trials": len(results.trials),
                "rows": MOST_ROWS,
            },
            picks=picks(results, [], None, storage_words(shelf)),
        )


@router.get("/studies/{study}/picks")
def picked(
    request: Request, study: str, memory: float | None = None, cold: float | None = None, verdict: str | None = None
) -> list[dict[str, Any]]:
    """The three under limits: memory in GiB, cold start in s, the worst verdict."""
    if verdict is not None and verdict not in VERDICTS:
        raise UserError(f"there is no verdict {verdict}")
    limits = [Limit("peak_vram_gib", "<=", memory)] if memory is not None else []
    limits += [Limit("cold_start_s", "<=", cold)] if cold is not None else []
    shelf = shelf_of(request)
    with shelf.open(study) as results:
        worst = Verdict(verdict) if verdict and results.quality_assessed else None
        return [asdict(one) for one in picks(results, limits, worst, storage_words(shelf))]


def _failure(trial: Any) -> dict[str, Any]:
    return {"number": trial.number, "text": str(trial.configuration), "outcome": trial.outcome, "reason": trial.reason}

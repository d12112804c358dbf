"""Choosing a configuration, with a note, and exporting it as a bundle."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from pydantic import AfterValidator, BaseModel, StringConstraints

from ....objectives.figures import FIGURES
from ...results import Results, Trial
from .exports import Exports
from .pages import render, shelf_of
from .people import Person, plain_text
from .picture_files import KEPT
from .shelf import storage_words

router = APIRouter()


class Choice(BaseModel):
    """What is said when a configuration is chosen."""

    by: Person
    note: Annotated[str, StringConstraints(max_length=5000), AfterValidator(plain_text)] = ""


class Wish(BaseModel):
    """How it is exported."""

    unconfirmed: bool = False


@router.get("/studies/{study}/chosen")
def chosen(request: Request, study: str) -> HTMLResponse:
    """Everything that was chosen in a study."""
    shelf = shelf_of(request)
    with shelf.open(study) as results:
        choices = [(one, results.numbered.get(one.trial)) for one in reversed(shelf.records.choices(study))]
        return render(
            request,
            "chosen.html.j2",
            study=study,
            tab=f"/studies/{study}/chosen",
            choices=[(one, trial) for one, trial in choices if trial is not None and trial.complete],
        )


@router.get("/studies/{study}/choose/{number}")
def choose(request: Request, study: str, number: int) -> HTMLResponse:
    """The page on which one configuration is chosen."""
    shelf = shelf_of(request)
    with shelf.open(study) as results:
        trial = results.trial(number)
        return render(
            request,
            "choose.html.j2",
            study=study,
            tab=f"/studies/{study}/chosen",
            trial=trial,
            lines=_compared(results, trial),
            doubts=[str(doubt) for doubt in trial.doubts()],
            choices=[one for one in shelf.records.choices(study) if one.trial == number],
            folder=str(exports_of(request).folder_of(study, number)),
            command=_command(request, study, trial),
            page={"study": study, "trial": number, "state": _state(request, study, number)},
        )


@router.post("/studies/{study}/choose/{number}")
def confirm(request: Request, study: str, number: int, choice: Choice) -> dict[str, Any]:
    """Store the choice."""
    shelf = shelf_of(request)
    with shelf.open(study) as results:
        results.trial(number)
    shelf.records.choose(study, number, choice.note, choice.by)
    return {"chosen": number}


@router.post("/studies/{study}/export/{number}")
def export(request: Request, study: str, number: int, wish: Wish) -> dict[str, Any]:
    """Begin to write the bundle."""
    with shelf_of(request).open(study) as results:
        results.trial(number)
    return asdict(exports_of(request).start(study, number, unconfirmed=wish.unconfirmed))


@router.get("/studies/{study}/export/{number}")
def progress(request: Request, study: str, number: int) -> dict[str, Any]:
    """How far it is."""
    found = _state(request, study, number)
    if found is None:
        raise HTTPException(404, "This was not exported here yet.")
    return found


@router.get("/studies/{study}/export/{number}/zip")
def download(request: Request, study: str, number: int) -> Response:
    """The bundle in one file."""
    found = exports_of(request).state(study, number)
    if found is None or found.state != "done" or not Path(found.archive).is_file():
        raise HTTPException(404, "This was not exported here yet.")
    return FileResponse(found.archive, media_type="application/zip", filename=Path(found.archive).name, headers=KEPT)


def exports_of(request: Request) -> Exports:
    """The server's bundles."""
    found: Exports = request.app.state.exports
    return found


def _state(request: Request, study: str, number: int) -> dict[str, Any] | None:
    found = exports_of(request).state(study, number)
    return None if found is None else asdict(found)


def _command(request: Request, study: str, trial: Trial) -> str:
    folder = str(exports_of(request).folder_of(study, trial.number))
    words = ["paretune", "export", study, "--trial", str(trial.number), "-o", folder]
    return shlex.join([*words, *([] if trial.exportable else ["--unconfirmed"]), *storage_words(shelf_of(request))])


def _compared(results: Results, trial: Trial) -> list[dict[str, str]]:
    lines = []
    for figure in FIGURES:
        before, after = results.reference.known_figure(figure.name), trial.known_figure(figure.name)
        if before is not None and after is not None:
            percent = 0.0 if before == 0 else 100 * (after / before - 1)
            change = "" if before == 0 else "the same" if abs(percent) < 0.5 else f"{percent:+.0f} %"
            lines.append({
                "label": figure.label, "before": figure.text(before), "after": figure.text(after), "change": change,
            })  # fmt: skip
    return lines

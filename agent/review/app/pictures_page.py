"""Looking at pictures: a configuration's beside the reference's, the worst first, and one of them at full size."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from PIL import Image

from ....objectives.measuring import VARIANT, VARIANT_SEEDS
from ....studies import UserError
from ...results import Results, Trial
from ..report import METRIC_WORDS
from ..rows import named_trials
from .differences import SCALES_LSB, fitting_scale, worst_tile
from .pages import render, shelf_of
from .picture_files import pair_of
from .trial_page import judged, trial_of

router = APIRouter()


@router.get("/studies/{study}/pictures")
def grid(request: Request, study: str, trial: int | None = None) -> HTMLResponse:
    """Every picture of one configuration, the worst first."""
    with shelf_of(request).open(study) as results:
        known = pictured(results)
        chosen = _default(results, known) if trial is None else trial_of(results, trial)
        return render(
            request,
            "pictures.html.j2",
            study=study,
            tab=f"/studies/{study}/pictures",
            assessed=results.quality_assessed,
            trials=[_named(results, one) for one in known],
            trial=chosen,
            pictures=[] if chosen is None else [{**one, **request_of(results, one["file"])} for one in judged(chosen)],
            there=set() if chosen is None else there(results, chosen),
            ratings=_ratings(request, study),
            given_blind=_given_blind(request, study),
        )


@router.get("/studies/{study}/pictures/{number}/{file}")
def one(request: Request, study: str, number: int, file: str) -> HTMLResponse:
    """One picture at full size, in the ways in which it can be compared."""
    shelf = shelf_of(request)
    with shelf.open(study) as results:
        reference, candidate = pair_of(results, trial_of(results, number), file)
    try:  # while others may read the study
        with Image.open(candidate) as image:
            size = image.size
        tile = worst_tile(reference, candidate)
        full_lsb = SCALES_LSB[-1] if tile is None else fitting_scale(reference, candidate)
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        raise UserError(f"the picture {file} of trial {number} cannot be read ({error})") from None
    with shelf.open(study) as results:
        trial = trial_of(results, number)
        files = [str(picture["file"]) for picture in judged(trial)]
        at = files.index(file) if file in files else 0
        said = next((picture for picture in judged(trial) if picture["file"] == file), None)
        others = [one for one in pictured(results) if any(made.name == file for made in one.pictures())]
        base = f"/studies/{study}"
        return render(
            request,
            "picture.html.j2",
            study=study,
            tab="",
            trial=trial,
            file=file,
            said=said,
            metric_words=METRIC_WORDS,
            request_words=request_of(results, file),
            tile=tile,
            full_lsb=full_lsb,
            before=files[at - 1] if at else None,
            after=files[at + 1] if at + 1 < len(files) else None,
            others=[{**_named(results, one), **_verdict(one, file)} for one in others],
            ratings=_ratings(request, study).get((number, file), []),
            given_blind=_given_blind(request, study),
            page={
                "reference": f"{base}/files/{results.reference.number}/{file}",
                "candidate": f"{base}/files/{number}/{file}",
                "difference": f"{base}/differences/{number}/{file}?full={full_lsb}",
                "width": size[0],
                "height": size[1],
                "tile": None if tile is None or tile.psnr_db is None else [tile.x, tile.y, tile.width, tile.height],
            },
        )


def pictured(results: Results) -> list[Trial]:
    """The trials whose pictures can be compared with the reference's, the named ones first, then the fastest."""
    named = [trial for trial in named_trials(results).values() if trial is not None]
    complete = sorted(results.complete, key=lambda trial: trial.figure("latency_ms"))
    ordered = list(dict.fromkeys([*reversed(named), *results.front, *complete]))
    return [one for one in ordered if one.complete and not one.is_reference and one.quality.get("pictures")]


def _default(results: Results, known: list[Trial]) -> Trial | None:
    best = results.best_or_none
    return best if best in known else next(iter(known), None)


def _named(results: Results, trial: Trial) -> dict[str, Any]:
    names = [name for name, named in named_trials(results).items() if named is trial]
    return {
        "number": trial.number,
        "label": ", ".join(names),
        "text": str(trial.configuration),
        "verdict": str(trial.verdict),
        "latency": trial.text("latency_ms"),
    }


def _verdict(trial: Trial, file: str) -> dict[str, Any]:
    said = next((one for one in trial.quality.get("pictures", ()) if one["file"] == file), None)
    return {} if said is None else {"verdict": said["verdict"], "drift": said["drift"]}


def there(results: Results, trial: Trial) -> set[str]:
    """The files that both the trial and the reference have."""
    return names_of(trial) & names_of(results.reference)


def names_of(trial: Trial) -> set[str]:
    """The files of its pictures that are there: its folder is looked through."""
    return {file.name for file in trial.pictures()}


def request_of(results: Results, file: str) -> dict[str, str]:
    """The prompt of a picture, and with which settings it was made; "portrait~1-0.png" is the first of another seed."""
    request_name, _, index = file.removesuffix(".png").rpartition("-")
    name, _, variant = request_name.partition(VARIANT)
    for request in results.study.workload_description()["requests"]:
        if request["name"] == name:
            seed = request["seed"] + int(index) + VARIANT_SEEDS * int(variant or 0)
            size = f"{request['width_px']} × {request['height_px']} px"
            words = f"{size}, {request['steps']} steps, guidance {request['guidance']:g}, seed {seed}"
            return {"prompt": str(request["prompt"]), "details": words}
    return {"prompt": "", "details": ""}


def _given_blind(request: Request, study: str) -> set[int]:
    return {one.id for one in shelf_of(request).records.ratings(study, blind=True)}


def _ratings(request: Request, study: str) -> dict[tuple[int, str], list[Any]]:
    found: dict[tuple[int, str], list[Any]] = {}
    for rating in shelf_of(request).records.ratings(study):
        found.setdefault((rating.trial, rating.picture), []).append(rating)
    return found

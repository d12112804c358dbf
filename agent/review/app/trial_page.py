"""One configuration: what it does, what it costs and gains, what its pictures are, and what speaks against it."""

from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse

from ....objectives.figures import FIGURES
from ....search_space import PipelineFacts
from ....studies import without_secrets
from ...results import Results, Trial, ablation_of
from ...trial import LOG, tail_of
from ..ablation import ablation_plot
from ..explain import explain
from ..report import LOSS_WORDS, METRIC_WORDS
from ..rows import named_trials, row_of
from ..sections import stage_names, stage_words, stages_of
from .pages import render, shelf_of

router = APIRouter()
LOG_CHARACTERS = 20_000


@router.get("/studies/{study}/trials/{number}")
def trial(request: Request, study: str, number: int) -> HTMLResponse:
    """The page of one trial, a failed one too."""
    with shelf_of(request).open(study) as results:
        found = trial_of(results, number)
        pipelines = {name: PipelineFacts.from_dict(facts) for name, facts in results.record.pipelines.items()}
        row = row_of(found)
        baselines = (results.reference, results.torch_compile, results.torch_compile_best)
        compared = [one for one in dict.fromkeys((*baselines, found)) if one is not None]
        names = {one.number: name for name, one in named_trials(results).items() if one is not None and name != "best"}
        ablation = ablation_of(results, found) if found.complete else None
        return render(
            request,
            "trial.html.j2",
            plots=ablation is not None,
            study=study,
            tab="",
            trial=found,
            row=row,
            reference=row_of(results.reference),
            figures=_figures(compared),
            compared=compared,
            called={**names, found.number: "this one"},
            steps=explain(found.configuration, pipelines),
            stages=stages_of(compared) if found.complete else {},
            stage_words=stage_words,
            stage_names=stage_names,
            memory=[row_of(one) for one in compared if one.complete] if found.complete else [],
            ablation=ablation,
            page={"plots": [] if ablation is None else [ablation_plot(ablation)]},
            pictures=judged(found),
            metrics=_metrics(found),
            metric_words=METRIC_WORDS,
            loss_words=LOSS_WORDS,
            assessed=results.quality_assessed,
            log=_log(found),
            neighbours=_neighbours(results, number),
        )


def trial_of(results: Results, number: int) -> Trial:
    """A trial of the study, however it ended; a 404 without it."""
    found = results.numbered.get(number)
    if found is None:
        raise HTTPException(404, f"Study {results.name} has no trial {number}.")
    return found


def judged(trial: Trial) -> list[dict[str, Any]]:
    """What was said of its pictures, the worst first; nothing of the reference's, which are what others are compared
    with, and nothing where pictures mean nothing.
    """
    if trial.is_reference or not trial.results.quality_assessed:
        return []
    pictures = [dict(one) for one in trial.quality.get("pictures", ())]
    return sorted(pictures, key=lambda one: (bool(one["broken"]), one["drift"]), reverse=True)


def _figures(compared: list[Trial]) -> list[dict[str, Any]]:
    """A line per figure that any of them has: its label, and how each of them has it; then measured cold starts."""
    lines = []
    for figure in FIGURES:
        values = [one.known_figure(figure.name) for one in compared]
        if any(value is not None for value in values):
            texts = ["" if value is None else figure.text(value) for value in values]
            lines.append({"label": figure.label, "meaning": figure.meaning, "texts": texts})
        if figure.name == "cold_start_s" and any(one.cold_start_measured for one in compared):
            texts = [
                "" if (measured := one.cold_start_measured) is None else figure.text(measured[figure.name])
                for one in compared
            ]
            lines.append({"label": "cold start, measured", "meaning": "median of real cold processes", "texts": texts})
    return lines


def _metrics(trial: Trial) -> list[str]:
    found: dict[str, None] = {}
    for picture in trial.quality.get("pictures", ()):
        found |= dict.fromkeys(picture["metrics"])
    return [name for name in METRIC_WORDS if name in found] + [name for name in found if name not in METRIC_WORDS]


def _log(trial: Trial) -> str:
    """The end of what its process said."""
    try:
        said = tail_of(trial.folder / LOG, LOG_CHARACTERS)
    except OSError:
        said = ""
    return without_secrets(said or trial.log_tail)


def _neighbours(results: Results, number: int) -> dict[str, int | None]:
    numbers = list(results.numbered)
    at = numbers.index(number)
    return {
        "before": numbers[at - 1] if at else None,
        "after": numbers[at + 1] if at + 1 < len(numbers) else None,
    }

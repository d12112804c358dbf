"""The report of a study: one HTML file that needs nothing else, for the person who has to decide."""

from importlib import metadata
from pathlib import Path

import jinja2
from markupsafe import Markup

from ...objectives.figures import FIGURE, drift_text
from ...objectives.measuring import memory
from ...objectives.verdict import Verdict, own_thresholds
from ...search_space import Loss
from ...studies import UserError, utc_now, without_secrets
from ..results import Results, Trial
from ..trial import write_text
from .ablation import ablation_plot
from .picture_cards import LEARNED_WORDS, not_assessed, request_cards, shown_files
from .pictures import inline_pictures
from .plots import plots
from .sections import COLD_WORDS, stage_names, stage_words
from .view import study_view

REPORT = "index.html"
PHASES = ("start", "load", "apply", "first_call", "warm_up", "memory", "measure", "pictures", "stages", "judge")

_MEMORY_WORDS = {
    memory.SOURCE_PROCESS: "GPU memory of the trial's process, as NVML counts it",
    memory.SOURCE_DEVICE_MINUS_BEFORE: "GPU memory in use (NVML), less what was in use before the trial's process",
    memory.SOURCE_DEVICE_MINUS_ENTRY: "GPU memory in use (NVML), less other processes and the CUDA context",
    memory.SOURCE_ALLOCATOR: "memory reserved by PyTorch's allocator, without the CUDA context",
    memory.SOURCE_RESIDENT_SET: "resident set of the trial's process (main memory), because it ran on the CPU",
}
METRIC_WORDS = {
    "max_abs_difference_lsb": "largest difference, of 255 levels",
    "psnr_db": "PSNR, dB",
    "worst_tile_psnr_db": "PSNR of the worst 64 px tile, dB",
    "ssim": "SSIM",
    "delta_e_mean": "mean colour difference ΔE00",
    "ms_ssim": "MS-SSIM",
    "ncc32": "correlation of 32 px thumbnails",
    "ssimulacra2": "SSIMULACRA2",
    **LEARNED_WORDS,
}
LOSS_WORDS = {
    Loss.BIT_IDENTICAL: "nothing, the pictures stay the same to the bit",
    Loss.REORDERED: "rounding, because the same arithmetic runs in another order",
    Loss.APPROXIMATE: "accuracy, because it approximates",
    Loss.BY_DESIGN: "likeness, because another picture is what was asked for",
}


def write_report(results: Results, folder: Path) -> Path:
    """Write the report into `folder`, in place of an earlier one. Returns the file.

    Raises UserError when the study has no reference yet, or when the folder cannot be written.
    """
    text = report_html(results)
    file = folder / REPORT
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise UserError(f"the report cannot be written to {folder} ({error.strerror}): choose another -o") from None
    return file


def report_html(results: Results) -> str:
    """The whole page; its numbers are the view's. Raises UserError when the study has no reference yet."""
    from plotly.offline import get_plotlyjs

    view = study_view(results)
    pictured = _pictured(results) if view.quality_assessed else []
    inlined = inline_pictures(shown_files(results, pictured))
    return template("report.html.j2").render(
        view=view,
        machine=view.fingerprint,
        on_cpu=view.fingerprint["device_kind"] == "cpu",
        version=metadata.version("paretune"),
        written_at=_date(utc_now()),
        objectives=[FIGURE[name].label for name in view.optimised],
        priced=any(row.cost for row in view.complete),
        plots=plots(view),
        ablation_plots=[ablation_plot(found) for found in view.ablations],
        cold_words=COLD_WORDS,
        stage_words=stage_words,
        stage_names=stage_names,
        requests=list(request_cards(results, pictured, inlined)),
        not_assessed=not_assessed(results),
        downscaled_px=inlined.longest_side_px,
        phases=PHASES,
        loss_words=LOSS_WORDS,
        memory_words="; ".join(_MEMORY_WORDS.get(source, source) for source in view.memory_sources),
        study_file=without_secrets(results.study.to_yaml()),
        thresholds=own_thresholds({str(k): v for k, v in results.study.quality.near_lossless.items()}),
        metric_words=METRIC_WORDS,
        verdicts=[str(verdict) for verdict in Verdict],
        seconds=_seconds,
        date=_date,
        drift=drift_text,
        figure=FIGURE,
        plotly_js=Markup(get_plotlyjs()),
    )


def template(name: str) -> jinja2.Template:
    """A template of this folder; HTML escapes what is put into it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


def _seconds(value: float) -> str:
    """ "0.03", "4.2", "118"."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _date(iso: str) -> str:
    """ "2026-05-04 13:07 UTC" from what utc_now writes."""
    return iso[:16].replace("T", " ") + " UTC"


def _pictured(results: Results) -> list[Trial]:
    """Reference, best, the rest of the front, and the fastest of all even if it breaks a limit: was the limit right?"""
    best = results.best_or_none
    fastest = min(results.complete, key=lambda trial: trial.figure("latency_ms"))
    trials = [results.reference, *([best] if best else []), *results.front, fastest]
    return list({trial.number: trial for trial in trials}.values())

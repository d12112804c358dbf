"""The options that several commands have, and how their values are read."""

import re
from pathlib import Path
from typing import Annotated

import typer

from ..studies import DEFAULT_STORAGE, Records, UserError


def study_names(context: typer.Context, incomplete: str) -> list[str]:
    """The studies in the database whose name begins so, for the shell's completion; none when it cannot be read."""
    storage = context.params.get("storage") or DEFAULT_STORAGE
    try:
        names = [record.name for record in Records(storage, must_exist=True).studies()]
    except UserError:
        return []
    return [name for name in names if name.startswith(incomplete)]


StudyName = Annotated[str, typer.Argument(help="Name of the study.", autocompletion=study_names)]
Storage = Annotated[
    str, typer.Option(help="Database: sqlite:///FILE or postgresql://USER@HOST/DATABASE.", envvar="PARETUNE_STORAGE")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
LimitOption = Annotated[
    list[str] | None,
    typer.Option("--limit", help="Such as 'peak_vram_gib<=20'; also latency_ms, drift, cold_start_s; may be repeated."),
]
VerdictOption = Annotated[
    str | None,
    typer.Option(
        "--verdict",
        help="The worst verdict on the pictures that is accepted: bit-exact, imperceptible, near-lossless, visible, "
        "different.",
    ),
]
LossOption = Annotated[
    str | None,
    typer.Option(
        "--loss",
        help="The most that techniques may lose by design: bit-identical, reordered, approximate, different by design.",
    ),
]
ByOption = Annotated[
    str | None,
    typer.Option(
        "--by", help="What to minimise: latency_ms, peak_vram_gib, drift or cold_start_s.", show_default="latency_ms"
    ),
]


def minutes_of(text: str) -> float:
    """Of --max-time. Raises UserError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UserError(f"--max-time {text}: write it as 90s, 20m or 3h")
    return float(match[1]) * {"s": 1 / 60, "m": 1, "h": 60}[match[2]]


def one_of(option: str, text: str | None, values: list[str]) -> None:
    """Raises UserError for what is none of the values."""
    if text is not None and text not in values:
        raise UserError(f"{option} {text}: one of {', '.join(values)}")


def model_folders(texts: list[str]) -> dict[str, Path]:
    """{pipeline: folder}, of every --model. Raises UserError."""
    found = {}
    for text in texts:
        name, separator, place = text.partition("=")
        if not (name and separator and place):
            raise UserError(f"--model {text}: write it as PIPELINE=FOLDER")
        found[name] = Path(place)
    return found

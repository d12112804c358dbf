"""The commands with which people look at a study and say what they think: the dashboard, and ratings."""

from pathlib import Path
from typing import Annotated

import typer

from ..studies import DEFAULT_STORAGE, Records, UserError
from .options import AsJson, Storage, StudyName, study_names
from .output import MaskedConsole, print_json, say, shell_line

console = MaskedConsole()


def dashboard(
    name: Annotated[str | None, typer.Argument(help="Open at this study.", autocompletion=study_names)] = None,
    storage: Storage = DEFAULT_STORAGE,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but this machine's own needs a password.")
    ] = "127.0.0.1",
    password_file: Annotated[
        Path | None,
        typer.Option(
            help="First line: the password; second line: one that may only look. Without a file, the environment's "
            "PARETUNE_PASSWORD and PARETUNE_READ_PASSWORD."
        ),
    ] = None,
    allow_name: Annotated[
        list[str] | None, typer.Option(help="A host name under which a proxy serves it; may be repeated.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Let nobody rate, choose, export or note.")] = False,
    bundles: Annotated[Path, typer.Option(help="Folder for the bundles that are exported there.")] = Path(
        "paretune-bundles"
    ),
) -> None:
    """Serve the pages to review a study, choose from it and export; with Optuna's beside them. Ctrl-C ends it."""
    from .review import Passwords
    from .review import dashboard as run

    run(
        name,
        storage,
        port,
        lambda address: console.print(f"The dashboard is at {address} (Ctrl-C ends it)"),
        host=host,
        passwords=Passwords.given(password_file),
        names=allow_name or (),
        read_only=read_only,
        bundles=bundles,
    )


def rate(
    name: StudyName,
    trial: Annotated[int, typer.Argument(min=0, help="Number of the trial.")],
    picture: Annotated[str, typer.Argument(help="The picture's file, such as portrait-0.png.")],
    rating: Annotated[str, typer.Argument(help="better, same or worse than the reference's picture.")],
    by: Annotated[str, typer.Option("--by", help="Who gives the rating.")],
    blind: Annotated[
        bool, typer.Option("--blind", help="They did not know which picture was the reference's: calibrate counts it.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Store a person's opinion of one picture; the report shows it beside the metrics."""
    from .results import Results

    results = Results(Records(storage, must_exist=True), name)
    files = [file.name for file in results.trial(trial).pictures()]
    if picture not in files:
        raise UserError(f"trial {trial} of {name} has no picture {picture!r}; it has {', '.join(files[:6]) or 'none'}")
    results.records.rate(name, trial, picture, rating, by, blind=blind)
    say(f"{picture} of trial {trial}: {rating}, says {by}")


def calibrate(
    name: StudyName,
    write: Annotated[
        bool, typer.Option("--write", help="Judge the study's pictures by these thresholds from now on.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Say, per metric, which near-lossless threshold agrees best with people's blind ratings, and how sure that is.

    With --write, the study's pictures are judged again by the thresholds that were found, and a later launch needs the
    same settings. Nothing is generated.
    """
    from .progress import step_progress
    from .results import Results, people_said
    from .review import calibration_lines, calibration_settings
    from .search import rejudge

    records = Records(storage, must_exist=True)
    said = people_said(Results(records, name))
    if as_json and not write:
        print_json(said.to_dict())
        return
    say("\n".join(calibration_lines(said)))
    if not write:
        return
    settings = calibration_settings(said)
    if not settings:
        raise UserError(f"there is no threshold to write into {name}: no metric has enough ratings that it agrees with")
    with step_progress(console) as on_step:
        done = rejudge(records, name, settings, on_step=on_step)
    say(f"{done.pictures} pictures of {name} were judged again")
    words = shell_line(*(word for setting in done.settings for word in ("--set", setting)))
    say(f"To continue it, launch it with {words}")

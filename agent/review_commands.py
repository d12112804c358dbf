"""The commands with which people look at a study and say what they think: the dashboard, and ratings."""

from pathlib import Path
from typing import Annotated

import typer

from ..studies import DEFAULT_STORAGE, Records, UserError
from .options import Storage, StudyName, study_names
from .output import MaskedConsole, say

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
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Store a person's opinion of one picture; the report shows it beside the metrics."""
    from .results import Results

    results = Results(Records(storage, must_exist=True), name)
    files = [file.name for file in results.trial(trial).pictures()]
    if picture not in files:
        raise UserError(f"trial {trial} of {name} has no picture {picture!r}; it has {', '.join(files[:6]) or 'none'}")
    results.records.rate(name, trial, picture, rating, by)
    say(f"{picture} of trial {trial}: {rating}, says {by}")

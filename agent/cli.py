"""The command line."""

import json
import re
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..studies import DEFAULT_STORAGE, Records, UserError, read_study

app = typer.Typer(
    name="paretune",
    help="Finds the fastest configuration of a diffusers pipeline that still makes the same pictures, and ships it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console()

FASTEST = "latency_ms"


def _study_names(context: typer.Context, incomplete: str) -> list[str]:
    """The studies in the database whose name begins so, for the shell's completion; none when it cannot be read."""
    storage = context.params.get("storage") or DEFAULT_STORAGE
    try:
        names = [record.name for record in Records(storage, must_exist=True).studies()]
    except UserError:
        return []
    return [name for name in names if name.startswith(incomplete)]


StudyName = Annotated[str, typer.Argument(help="Name of the study.", autocompletion=_study_names)]
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


def _print_version(asked: bool) -> None:
    if asked:
        console.print(f"paretune {metadata.version('paretune')}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of `paretune` itself, before a command."""


@app.command()
def launch(
    study: Annotated[str, typer.Argument(help="A study file, or quickstart, or sdxl.")],
    trials: Annotated[
        int | None, typer.Option(min=1, help="Measured trials in all, instead of the file's budget.")
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option(
            help="Start no trial after searching this long (90s, 20m, 3h). The reference and the noise floor come "
            "before the search, confirming the finalists after it."
        ),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    name: Annotated[str | None, typer.Option(help="Name of the study; by default the file's.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override any key: limits.peak_vram_gib=16.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure everything, even what other studies in the database have measured.")
    ] = False,
) -> None:
    """Search: measure configurations until the budget is spent, and confirm the best. Launch again to continue."""
    from .progress import LaunchProgress
    from .results import headline, study_doubts
    from .search import launch as run

    settings = [*(set_ or []), *([f"name={json.dumps(name)}"] if name is not None else [])]
    wanted = read_study(study, settings)
    minutes = None if max_time is None else _minutes(max_time)
    try:
        with LaunchProgress(console) as progress:
            results = run(
                wanted, storage=storage, trials=trials, max_minutes=minutes, fresh=fresh, on_event=progress.show
            )
    except KeyboardInterrupt:
        _say("Interrupted. Nothing that was measured is lost: the same command continues.")
        raise typer.Exit(130) from None
    _say("\n".join([headline(results), *map(str, study_doubts(results))]))
    there = "" if storage == DEFAULT_STORAGE else f" --storage {storage}"
    following = [f"paretune report {results.name}{there}"]
    if results.best_or_none is not None and results.best_or_none.exportable:
        following.append(f"paretune export {results.name} -o bundle{there}")
    _say(f"Next: {'; '.join(following)}")


@app.command("list")
def list_studies(storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> None:
    """List the studies in the database: when each was launched, on what, how many trials it has, how many failed."""
    from .review import listed_studies, study_lines

    studies = listed_studies(Records(storage, must_exist=True))
    if as_json:
        _print_json([asdict(study) for study in studies])
        return
    _say("\n".join(study_lines(studies)))


@app.command()
def report(
    name: StudyName,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder; by default NAME-report.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON, and write nothing.")] = False,
) -> None:
    """Write one self-contained HTML file: the gain, the Pareto front, pictures side by side, failures."""
    from .results import Results
    from .review import study_view, write_report

    results = Results(Records(storage, must_exist=True), name)
    if as_json:
        _print_json(study_view(results).to_dict())
        return
    file = write_report(results, output or Path(f"{name}-report"))
    _say(f"The report is {file}")


@app.command()
def best(
    name: StudyName,
    limit: LimitOption = None,
    verdict: VerdictOption = None,
    by: ByOption = None,
    loss: LossOption = None,
    all_: Annotated[bool, typer.Option("--all", help="List every trial instead.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Show the best configuration under the given conditions, and how far its figures can be trusted."""
    from .results import Results, headline
    from .review import row_of, trial_lines, trust_lines

    results = Results(Records(storage, must_exist=True), name)
    by = by or FASTEST
    if all_:
        trials, chosen, by = results.trials, results.best_or_none, FASTEST
    else:
        chosen = _choose(results, limit, verdict, by, loss)
        trials = [chosen]
    rows = [row_of(trial, by) for trial in trials]
    if as_json:
        listed = [{"study": name, **asdict(row)} for row in rows]
        _print_json(listed if all_ else {**listed[0], "headline": headline(results)})
        return
    _say("\n".join([*trial_lines(rows), "", *trust_lines(results, chosen, by)]))


@app.command()
def export(
    name: StudyName,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the bundle.")],
    trial: Annotated[
        int | None, typer.Option(help="Export this trial; by default the best one under the other options.")
    ] = None,
    limit: LimitOption = None,
    verdict: VerdictOption = None,
    by: ByOption = None,
    loss: LossOption = None,
    unconfirmed: Annotated[
        bool, typer.Option("--unconfirmed", help="Even if the machine changed so much that nothing can be compared.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Write a configuration as a bundle that runs without paretune; warn of what speaks against its figures."""
    from .bundle import export as run
    from .results import Results

    conditions = {"--limit": limit, "--verdict": verdict, "--by": by, "--loss": loss}
    if trial is not None and (asked := [option for option, value in conditions.items() if value is not None]):
        raise UserError(f"--trial {trial} says which one already: leave out {', '.join(asked)}")
    results = Results(Records(storage, must_exist=True), name)
    chosen = results.trial(trial) if trial is not None else _choose(results, limit, verdict, by or FASTEST, loss)
    folder = run(results, chosen, output, unconfirmed=unconfirmed)
    _say(f"Trial {chosen.number} ({chosen.configuration}) is exported to {folder}")
    if doubts := chosen.doubts():
        _print_error("warning", " ".join(map(str, doubts)))


@app.command()
def verify(folder: Annotated[Path, typer.Argument(help="Folder of the bundle.")], as_json: AsJson = False) -> None:
    """Run a bundle in a fresh process without paretune and compare with its evidence. Exit code 1 when it differs."""
    from .bundle import verify as run

    with console.status("verifying") as status:
        verification = run(folder, on_step=lambda text: status.update(text))
    if as_json:
        _print_json({"passed": verification.passed, **asdict(verification)})
    else:
        for check in verification.checks:
            mark = "[green]pass[/green]" if check.passed else "[red]differs[/red]"
            console.print(f"{mark}  {check.name}: {escape(check.text)}", soft_wrap=True)
        console.print("The bundle passes." if verification.passed else "The bundle differs from its evidence.")
    raise typer.Exit(0 if verification.passed else 1)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="A bundle's folder, or STUDY:TRIAL (a number, reference, best).")],
    second: Annotated[str, typer.Argument(help="Likewise; this one is compared with the first.")],
    blocks: Annotated[int, typer.Option(min=3, help="Fresh processes of each; more see smaller differences.")] = 8,
    calls: Annotated[int, typer.Option(min=1, help="Timed calls per shape of request in each process.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Measure both in turns, in fresh processes, and say whether the second is faster, slower or a tie."""
    from .measuring import compare as run
    from .measuring import contender
    from .progress import step_progress

    _one_of("--device", device, ["auto", "cuda", "cpu"])
    both = contender(first, storage), contender(second, storage)
    with step_progress(console) as on_step:
        found = run(*both, blocks=blocks, calls=calls, device=device, on_step=on_step)
    if as_json:
        _print_json(found.to_dict())
        return
    _say(f"{found.second} against {found.first}: {found.comparison.words()}")


@app.command()
def judge(
    name: StudyName,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another way to judge: quality.weights.lpips=/models/lpips, quality.files=[my.py]."),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Judge the stored pictures again, all or none; nothing is generated. A later launch needs the same --set."""
    from .progress import step_progress
    from .search import rejudge

    try:
        with step_progress(console) as on_step:
            done = rejudge(Records(storage, must_exist=True), name, set_ or [], on_step=on_step)
    except KeyboardInterrupt:
        _say("Interrupted. Nothing was changed.")
        raise typer.Exit(130) from None
    _say(f"{done.pictures} pictures of {name} were judged again")
    if done.settings:
        settings = " ".join(f"--set {setting}" for setting in done.settings)
        _say(f"To continue it, launch it with {settings}")


@app.command()
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
    _say(f"{picture} of trial {trial}: {rating}, says {by}")


@app.command()
def dashboard(
    name: Annotated[str | None, typer.Argument(help="Open at this study.", autocompletion=_study_names)] = None,
    storage: Storage = DEFAULT_STORAGE,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 8080,
) -> None:
    """Serve the dashboard on this machine until Ctrl-C."""
    from .review import dashboard as run

    run(name, storage, port, lambda address: console.print(f"The dashboard is at {address} (Ctrl-C ends it)"))


@app.command()
def techniques(as_json: AsJson = False) -> None:
    """List every technique, whether it can run here, and if not why; with --json, every variant of each."""
    from .doctor import availability, availability_text

    found = availability()
    if as_json:
        _print_json([one.to_dict() for one in found])
        return
    console.print(availability_text(found), soft_wrap=True, highlight=False)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show the machine, the versions, and what is missing. Exit code 1 when something needed is missing or too old."""
    from .doctor import examine

    findings = examine()
    if as_json:
        _print_json([asdict(finding) for finding in findings])
    else:
        console.print("\n".join(map(str, findings)), soft_wrap=True)
    raise typer.Exit(0 if all(finding.ok is not False for finding in findings) else 1)


def main() -> None:
    """Entry point: a UserError is one sentence and exit code 2, never a traceback."""
    try:
        app()
    except UserError as error:
        _print_error("error", str(error))
        sys.exit(2)


def _say(text: str) -> None:
    """Text as it is, its lines whole whatever the terminal's width."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def _print_error(kind: str, text: str) -> None:
    """One line on stderr: "error: ..." or "warning: ..."."""
    colour = "red" if kind == "error" else "yellow"
    Console(stderr=True).print(f"[{colour}]{kind}:[/{colour}] {escape(text)}", soft_wrap=True, highlight=False)


def _minutes(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UserError(f"--max-time {text}: write it as 90s, 20m or 3h")
    return float(match[1]) * {"s": 1 / 60, "m": 1, "h": 60}[match[2]]


def _one_of(option: str, text: str | None, values: list[str]) -> None:
    if text is not None and text not in values:
        raise UserError(f"{option} {text}: one of {', '.join(values)}")


def _choose(results: Any, limit: list[str] | None, verdict: str | None, by: str, loss: str | None) -> Any:
    from ..objectives.verdict import Verdict
    from ..search_space import LOSSES, Loss
    from .results import Limit

    acceptable = [v.value for v in Verdict if v not in (Verdict.BROKEN, Verdict.NOT_ASSESSED)]
    _one_of("--verdict", verdict, acceptable)
    _one_of("--loss", loss, list(LOSSES))
    return results.best(
        by=by,
        limits=[Limit.parse(text) for text in limit or []],
        verdict=verdict and Verdict(verdict),
        loss=loss and Loss(loss),
    )


def _print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n")


if __name__ == "__main__":
    main()

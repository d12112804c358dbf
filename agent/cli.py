"""The command line."""

import json
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from ..studies import DEFAULT_STORAGE, Records, UserError, fault_sentence, read_study
from .bundle_commands import keygen, verify
from .options import (
    AsJson,
    ByOption,
    LimitOption,
    LossOption,
    Storage,
    StudyName,
    VerdictOption,
    minutes_of,
    one_of,
)
from .output import MaskedConsole, print_error, print_json, print_mistake, say, shell_line
from .review_commands import calibrate, dashboard, rate
from .trial_commands import ablate, explain

app = typer.Typer(
    name="paretune",
    help="Finds the fastest configuration of a diffusers pipeline that still makes the same pictures, and ships it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = MaskedConsole()

FASTEST = "latency_ms"


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
    context: typer.Context,
    study: Annotated[str, typer.Argument(help="A study file, or quickstart, comic or sdxl.")],
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
    recipes_only: Annotated[
        bool, typer.Option("--recipes-only", help="End after the configurations that are known to be strong.")
    ] = False,
    like: Annotated[
        str | None, typer.Option(help="Try the front of this study first, which another machine has measured, say.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Measure at so many places here at once: a GPU each, or a share of the CPU each."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Measure at every free GPU of the Ray cluster with this head (HOST:6379, or auto)."),
    ] = None,
    each_device: Annotated[
        bool, typer.Option("--by-device", help="With --ray: a study for each kind of GPU, driver and versions.")
    ] = False,
) -> None:
    """Search: measure configurations until the budget is spent, and confirm the best. Launch again to continue."""
    from .places import studies_at_places
    from .progress import LaunchProgress
    from .results import headline, study_doubts
    from .search import Event
    from .search import launch as run

    settings = [*(set_ or []), *([f"name={json.dumps(name)}"] if name is not None else [])]
    wanted = read_study(study, settings)
    minutes = None if max_time is None else minutes_of(max_time)
    try:
        with LaunchProgress(console) as progress:

            def note(text: str) -> None:
                progress.show(Event("note", text))

            progress.show(Event("server", "starting"))
            with studies_at_places(wanted, workers=workers, address=ray, each_device=each_device, note=note) as found:
                launched = [
                    run(
                        one,
                        storage=storage,
                        trials=trials,
                        max_minutes=minutes,
                        fresh=fresh,
                        recipes_only=recipes_only,
                        like=like,
                        runner=runner,
                        on_event=progress.show,
                    )
                    for one, runner in found
                ]
    except KeyboardInterrupt:
        say("Interrupted. Nothing that was measured is lost: the same command continues.")
        raise typer.Exit(130) from None
    # What the environment gives, it gives to the next command too.
    given = context.get_parameter_source("storage")
    there = ["--storage", storage] if given is not None and given.name == "COMMANDLINE" else []
    for results in launched:
        say("\n".join([headline(results), *map(str, study_doubts(results))]))
        following = [["report", results.name, *there]]
        if results.best_or_none is not None and results.best_or_none.exportable:
            following.append(["export", results.name, "-o", "bundle", *there])
        say(f"Next: {'; '.join(shell_line('paretune', *command) for command in following)}")


@app.command("list")
def list_studies(storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> None:
    """List the studies in the database: when each was launched, on what, how many trials it has, how many failed."""
    from .review import listed_studies, study_lines

    studies = listed_studies(Records(storage, must_exist=True))
    if as_json:
        print_json([asdict(study) for study in studies])
        return
    say("\n".join(study_lines(studies)))


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
        print_json(study_view(results).to_dict())
        return
    file = write_report(results, output or Path(f"{name}-report"))
    say(f"The report is {file}")


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
        print_json(listed if all_ else {**listed[0], "headline": headline(results)})
        return
    say("\n".join([*trial_lines(rows), "", *trust_lines(results, chosen, by)]))


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
    sign: Annotated[
        Path | None, typer.Option(help="Sign the bundle with this private key (made by `paretune keygen`).")
    ] = None,
    artefacts: Annotated[
        bool,
        typer.Option("--artefacts/--no-artefacts", help="Build compiled code, where something compiles."),
    ] = True,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Write a configuration as a bundle that runs without paretune; warn of what speaks against its figures.

    Where the configuration compiles, its code is built in fresh processes, in every way there is; the best is kept.
    """
    from .bundle import export as run
    from .progress import step_progress
    from .results import Results

    conditions = {"--limit": limit, "--verdict": verdict, "--by": by, "--loss": loss}
    if trial is not None and (asked := [option for option, value in conditions.items() if value is not None]):
        raise UserError(f"--trial {trial} says which one already: leave out {', '.join(asked)}")
    results = Results(Records(storage, must_exist=True), name)
    chosen = results.trial(trial) if trial is not None else _choose(results, limit, verdict, by or FASTEST, loss)
    built: list[str] = []
    try:
        with step_progress(console) as on_step:
            folder = run(
                results,
                chosen,
                output,
                unconfirmed=unconfirmed,
                sign=sign,
                artefacts=artefacts,
                on_step=on_step,
                on_built=lambda artefacts: built.append(artefacts.words()),
            )
    except KeyboardInterrupt:
        say("Interrupted. What was built is kept: the same command goes on from there.")
        raise typer.Exit(130) from None
    say(f"Trial {chosen.number} ({chosen.configuration}) is exported to {folder}")
    if any(built):
        say("\n".join(built))
    if doubts := chosen.doubts():
        print_error("warning", " ".join(map(str, doubts)))


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

    one_of("--device", device, ["auto", "cuda", "cpu"])
    both = contender(first, storage), contender(second, storage)
    with step_progress(console) as on_step:
        found = run(*both, blocks=blocks, calls=calls, device=device, on_step=on_step)
    if as_json:
        print_json(found.to_dict())
        return
    say(f"{found.second} against {found.first}: {found.comparison.words()}")


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
        say("Interrupted. Nothing was changed.")
        raise typer.Exit(130) from None
    say(f"{done.pictures} pictures of {name} were judged again")
    if done.settings:
        settings = shell_line(*(word for setting in done.settings for word in ("--set", setting)))
        say(f"To continue it, launch it with {settings}")


@app.command()
def techniques(storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> None:
    """List every technique, whether it can run here, and if not why; with --json, every variant of each.

    What failed here before, in a study of the database, is said as well.
    """
    from .doctor import availability, availability_text

    found = availability(storage)
    if as_json:
        print_json([one.to_dict() for one in found])
        return
    console.print(availability_text(found), soft_wrap=True, highlight=False)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show the machine, the versions, and what is missing. Exit code 1 when something needed is missing or too old."""
    from .doctor import examine

    findings = examine()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        console.print("\n".join(map(str, findings)), soft_wrap=True)
    raise typer.Exit(0 if all(finding.ok is not False for finding in findings) else 1)


app.command()(verify)
app.command()(keygen)
app.command()(rate)
app.command()(calibrate)
app.command()(dashboard)
app.command()(ablate)
app.command()(explain)


def main() -> None:
    """Entry point: what a user can mend, or the machine has caused, is one sentence and exit code 2, no traceback."""
    try:
        app()
    except Exception as error:
        sentence = str(error) if isinstance(error, UserError) else fault_sentence(error)
        if sentence is None:  # a mistake of ours: all of it is shown, but for what is secret
            print_mistake()
            sys.exit(1)
        print_error("error", sentence)
        sys.exit(2)


def _choose(results: Any, limit: list[str] | None, verdict: str | None, by: str, loss: str | None) -> Any:
    from ..objectives.verdict import Verdict
    from ..search_space import LOSSES, Loss
    from .results import Limit

    acceptable = [v.value for v in Verdict if v not in (Verdict.BROKEN, Verdict.NOT_ASSESSED)]
    one_of("--verdict", verdict, acceptable)
    one_of("--loss", loss, list(LOSSES))
    return results.best(
        by=by,
        limits=[Limit.parse(text) for text in limit or []],
        verdict=verdict and Verdict(verdict),
        loss=loss and Loss(loss),
    )


if __name__ == "__main__":
    main()

"""The commands that look into one trial: what its configuration does, and what each technique of it earns."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..studies import DEFAULT_STORAGE, Records, UserError
from .options import AsJson, Storage, StudyName
from .output import MaskedConsole, print_json, say

console = MaskedConsole()


def ablate(
    name: StudyName,
    trial: Annotated[int | None, typer.Option(help="Number of the trial; by default the best one.")] = None,
    blocks: Annotated[int, typer.Option(min=2, help="Fresh processes of each variant.")] = 4,
    calls: Annotated[int, typer.Option(min=1, help="Timed calls per shape of request in each process.")] = 3,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Measure what each technique of a trial earns: all of them, each left out, each alone, in turns."""
    from .progress import step_progress
    from .review import ablation_lines
    from .search import ablate as run

    records = Records(storage, must_exist=True)
    with step_progress(console) as on_step:
        found = run(records, name, trial, blocks=blocks, calls=calls, on_step=on_step)
    if as_json:
        print_json(found.to_dict())
        return
    say("\n".join(ablation_lines(found)))


def explain(
    what: Annotated[str, typer.Argument(help="STUDY:TRIAL (a number, or best), or a configuration.yaml.")],
    code: Annotated[bool, typer.Option("--code/--no-code", help="Show the Python that runs.")] = True,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Print a configuration step by step: what is done to which modules, why at that place, what it may lose."""
    from .review import explain as run
    from .review import explanation_lines

    configuration, pipelines, failed = _configuration_of(what, storage)
    steps = run(configuration, pipelines, failed)
    if as_json:
        print_json([asdict(step) for step in steps])
        return
    say("\n".join(explanation_lines(configuration, steps, code=code)))


def _configuration_of(what: str, storage: str) -> tuple[Any, dict[str, Any], Any]:
    """A configuration, the pipelines of its study as far as there is one, and what failed here before."""
    from ..search_space import Configuration, PipelineFacts
    from .doctor import remembered_here
    from .results import Results
    from .review import remembered

    if Path(what).is_file():
        try:
            return Configuration.from_yaml(Path(what).read_text()), {}, remembered_here(storage)
        except (ValueError, OSError) as error:
            raise UserError(f"{what}: {error}") from None
    study, separator, which = what.rpartition(":")
    if not separator or not (which == "best" or which.isdecimal()):
        raise UserError(f"{what} is neither a file nor STUDY:TRIAL, such as quickstart:4 or quickstart:best")
    results = Results(Records(storage, must_exist=True), study)
    trial = results.best() if which == "best" else results.numbered.get(int(which))
    if trial is None:
        raise UserError(f"study {study} has no trial {which}; paretune best {study} --all lists them")
    pipelines = {k: PipelineFacts.from_dict(v) for k, v in results.record.pipelines.items()}
    return trial.configuration, pipelines, remembered(results)

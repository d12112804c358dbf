"""make quickstart: the three jobs, one after the other, on the model that comes with paretune."""

import sys
import time
from pathlib import Path

from ..studies import Records, UserError, read_study
from .bundle import export, verify
from .output import MaskedConsole
from .progress import LaunchProgress, step_progress
from .results import Results, headline, study_doubts
from .review import write_report
from .search import files_folder, launch
from .trial import COMPILED, forget_all_compiled

FOLDER = Path("paretune-quickstart")


def main() -> None:
    """Launch, report, export, verify; print where everything is. Launched again, it continues."""
    console = MaskedConsole()
    started = time.monotonic()
    storage = f"sqlite:///{FOLDER / 'paretune.db'}"
    try:
        passed = _three_jobs(console, storage)
    except UserError as error:
        MaskedConsole(stderr=True).print(f"error: {error}", soft_wrap=True, markup=False)
        sys.exit(2)
    finally:
        forget_all_compiled(files_folder(storage) / "quickstart")
    console.print(f"All of it took {time.monotonic() - started:.0f} s.")
    sys.exit(0 if passed else 1)


def _three_jobs(console: MaskedConsole, storage: str) -> bool:
    console.rule("1. launch a search")
    with LaunchProgress(console) as progress:
        launch(read_study("quickstart"), storage=storage, keep_compiled=True, on_event=progress.show)
    results = Results(Records(storage), "quickstart")
    console.rule("2. review what was found")
    report = write_report(results, FOLDER / "report")
    best = results.best_or_none or results.reference
    console.print(f"trial {best.number}: {best.configuration}", markup=False)
    console.rule("3. export the best and verify it")
    # On an unsteady machine too, to show how it is done; the doubts are printed below.
    with step_progress(console) as on_step:
        bundle = export(results, best, FOLDER / "bundle", unconfirmed=True, on_step=on_step)
    # Compiling once more would take too long here; `paretune verify` does it, as a new worker would.
    verification = verify(bundle, compiled=best.folder / COMPILED)
    for check in verification.checks:
        mark = "pass" if check.passed else "differs"
        console.print(f"{mark}  {check.name}: {check.text}", markup=False, soft_wrap=True)
    console.rule("done")
    for sentence in (headline(results), *map(str, study_doubts(results))):
        console.print(sentence, markup=False)
    for what, where in (("report", report), ("bundle", bundle), ("database", FOLDER / "paretune.db")):
        console.print(f"{what:9} {where}", markup=False, soft_wrap=True)
    console.print(f"dashboard paretune dashboard quickstart --storage {storage}", markup=False, soft_wrap=True)
    return verification.passed


if __name__ == "__main__":
    main()

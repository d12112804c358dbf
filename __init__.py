"""paretune finds the fastest configuration of a diffusers pipeline that still makes the same pictures, and ships it.

The public API, for notebooks and programs (docs/python.md):

    study = paretune.read_study("quickstart")
    results = paretune.launch(study, storage="sqlite:///paretune.db")
    results.export("bundle")
    paretune.verify(Path("bundle"))
    paretune.load_bundle("bundle").apply(pipeline)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agent.bundle.verify import verify
    from .agent.interface import (
        LoadedBundle,
        StudyResults,
        export,
        launch,
        load_bundle,
        study,
        study_view,
        write_report,
    )
    from .agent.interface import open_study as open
    from .agent.results import Limit, Results, Trial
    from .agent.review import StudyView
    from .objectives.verdict import Verdict
    from .search_space import Axis, Configuration, Loss, Parameters, Technique
    from .studies import LiveWorkload, Outcome, Records, Request, Study, UserError, read_study
    from .studies import live_workload as workload

__version__ = "0.1.0"

__all__ = [
    "Axis",
    "Configuration",
    "Limit",
    "LiveWorkload",
    "LoadedBundle",
    "Loss",
    "Outcome",
    "Parameters",
    "Records",
    "Request",
    "Results",
    "Study",
    "StudyResults",
    "StudyView",
    "Technique",
    "Trial",
    "UserError",
    "Verdict",
    "export",
    "launch",
    "load_bundle",
    "open",
    "read_study",
    "study",
    "study_view",
    "verify",
    "workload",
    "write_report",
]

_PLACES = {
    "agent.bundle": ("verify",),
    "agent.interface": (
        *("LoadedBundle", "StudyResults", "export", "launch", "load_bundle", "open_study", "study", "study_view"),
        "write_report",
    ),
    "agent.results": ("Limit", "Results", "Trial"),
    "agent.review": ("StudyView",),
    "objectives.verdict": ("Verdict",),
    "search_space": ("Axis", "Configuration", "Loss", "Parameters", "Technique"),
    "studies": ("LiveWorkload", "Outcome", "Records", "Request", "Study", "UserError", "live_workload", "read_study"),
}
_NAMED_OTHERWISE = {"open": "open_study", "workload": "live_workload"}
"""Where these are defined, such a name would hide another one."""


def __getattr__(name: str) -> Any:
    # Imported when first used: a trial process must not pay for Optuna, nor `paretune --help` for torch.
    if name in __all__:
        inside = _NAMED_OTHERWISE.get(name, name)
        place = next(place for place, names in _PLACES.items() if inside in names)
        return getattr(importlib.import_module(f".{place}", __name__), inside)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

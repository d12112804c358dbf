"""paretune finds the fastest configuration of a diffusers pipeline that still makes the same pictures, and ships it.

The public API, for notebooks and programs:

    study = paretune.read_study("quickstart")
    results = paretune.launch(study, storage="sqlite:///paretune.db")
    paretune.export(results, results.best(), Path("bundle"))
    paretune.verify(Path("bundle"))
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agent.bundle.export import export
    from .agent.bundle.verify import verify
    from .agent.results import Limit, Results, Trial
    from .agent.review import StudyView, study_view, write_report
    from .agent.search.launch import launch
    from .objectives.verdict import Verdict
    from .search_space import Axis, Configuration, Loss, Parameters, Technique
    from .studies import Outcome, Records, Request, Study, UserError, read_study

__version__ = "0.1.0"

__all__ = [
    "Axis",
    "Configuration",
    "Limit",
    "Loss",
    "Outcome",
    "Parameters",
    "Records",
    "Request",
    "Results",
    "Study",
    "StudyView",
    "Technique",
    "Trial",
    "UserError",
    "Verdict",
    "export",
    "launch",
    "read_study",
    "study_view",
    "verify",
    "write_report",
]

_PLACES = {
    "agent.bundle": ("export", "verify"),
    "agent.results": ("Limit", "Results", "Trial"),
    "agent.review": ("StudyView", "study_view", "write_report"),
    "agent.search": ("launch",),
    "objectives.verdict": ("Verdict",),
    "search_space": ("Axis", "Configuration", "Loss", "Parameters", "Technique"),
    "studies": ("Outcome", "Records", "Request", "Study", "UserError", "read_study"),
}


def __getattr__(name: str) -> Any:
    # Imported when first used: a trial process must not pay for Optuna, nor `paretune --help` for torch.
    for place, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f".{place}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

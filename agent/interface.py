"""What notebooks and programs use: launch, open, build a study, load a bundle. Everything shows itself there."""

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..objectives.figures import FIGURE, FIGURES
from ..objectives.verdict import Verdict
from ..search_space import Configuration, Loss, PipelineFacts
from ..studies import DEFAULT_STORAGE, LiveWorkload, Records, Study, UserError, parse_study
from .bundle import export as export_bundle
from .bundle import open_bundle
from .measuring import Runner
from .notebook_progress import NotebookProgress, in_notebook
from .notebook_views import (
    CELL,
    STYLE,
    AgainstTorchCompile,
    ComparedTrials,
    Explanation,
    Pictures,
    explanation_of,
    trials_table,
)
from .results import Limit, Results, Trial, headline, study_doubts
from .review import StudyView
from .review import study_view as view_of
from .review import write_report as write_report_of
from .search import Event
from .search import launch as run_launch


def study(name: str, workload: LiveWorkload | Mapping[str, Any], **keys: Any) -> Study:
    """A study that is built in Python.

    workload: of `paretune.workload`, or as in a study file; keys: its other sections, as in a study file. Relative
    paths are taken from the current folder. Raises UserError.
    """
    if not isinstance(workload, LiveWorkload | Mapping):
        raise UserError("study() takes a workload of paretune.workload(), or a mapping as in a study file")
    described = workload.to_dict() if isinstance(workload, LiveWorkload) else dict(workload)
    content = {"schema": 1, "name": name, "workload": described, **keys}
    return parse_study(content, "paretune.study()", Path.cwd())


def launch(
    study: Study,
    *,
    storage: str = DEFAULT_STORAGE,
    trials: int | None = None,
    max_minutes: float | None = None,
    fresh: bool = False,
    keep_compiled: bool = False,
    recipes_only: bool = False,
    runner: Runner | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> "StudyResults":
    """Run a study until its budget is spent, then confirm its finalists; continue it when it exists.

    trials, max_minutes: instead of the study's own budget. fresh: measure everything, even what is known of other
    studies. recipes_only: end after presets and recipes. on_event: told of every trial; by default a progress bar in
    notebooks, and nothing elsewhere. Raises UserError for whatever the user can fix.
    """
    if not isinstance(study, Study):
        raise UserError("launch() takes a study: of paretune.read_study() or paretune.study()")
    options: dict[str, Any] = {"keep_compiled": keep_compiled, "recipes_only": recipes_only, "runner": runner}
    how = {"storage": storage, "trials": trials, "max_minutes": max_minutes, "fresh": fresh, **options}
    if on_event is not None:
        return StudyResults(run_launch(study, on_event=on_event, **how))
    if not in_notebook():
        return StudyResults(run_launch(study, **how))
    with NotebookProgress() as progress:
        return StudyResults(run_launch(study, on_event=progress.show, **how))


def open_study(name: str, *, storage: str = DEFAULT_STORAGE) -> "StudyResults":
    """The results of a study that was launched before. Raises UserError when there is none of that name."""
    return StudyResults(Results(Records(storage, must_exist=True), name))


def load_bundle(folder: Path | str) -> "LoadedBundle":
    """A bundle, checked, to be applied to pipelines of this process. Raises UserError when a file was changed."""
    return LoadedBundle.read(Path(folder))


def export(results: "StudyResults | Results", trial: Trial, folder: Path | str, *, unconfirmed: bool = False) -> Path:
    """Write a trial as a bundle; returns its folder. unconfirmed: also where nothing is known of its gain.

    Raises UserError when the folder holds something that is not a bundle, among others.
    """
    return export_bundle(_inner(results), trial, Path(folder), unconfirmed=unconfirmed)


def study_view(results: "StudyResults | Results") -> StudyView:
    """Every number and sentence that reports show, in one object."""
    return view_of(_inner(results))


def write_report(results: "StudyResults | Results", folder: Path | str) -> Path:
    """Write the report, one HTML file; returns it."""
    return write_report_of(_inner(results), Path(folder))


def _inner(results: "StudyResults | Results") -> Results:
    return results.results if isinstance(results, StudyResults) else results


class StudyResults:
    """What a study found. Every number is the one that the report shows."""

    def __init__(self, results: Results) -> None:
        self.results = results
        """With everything there is: the runs, canaries, the noise floor."""

    @property
    def name(self) -> str:
        """The study's name."""
        return self.results.name

    @property
    def study(self) -> Study:
        """The study, resolved."""
        return self.results.study

    @property
    def trials(self) -> list[Trial]:
        """Every trial, failures included."""
        return self.results.trials

    @property
    def reference(self) -> Trial:
        """The unchanged pipelines."""
        return self.results.reference

    @property
    def torch_compile(self) -> Trial | None:
        """torch.compile as people use it, when it was measured."""
        return self.results.torch_compile

    @property
    def headline(self) -> str:
        """What came out, in a sentence."""
        return headline(self.results)

    @property
    def doubts(self) -> list[str]:
        """What a reader has to know before trusting it."""
        return [str(doubt) for doubt in study_doubts(self.results)]

    def trial(self, number: int) -> Trial:
        """A complete trial by its number. Raises UserError."""
        return self.results.trial(number)

    def front(self) -> list[Trial]:
        """The configurations that no other one beats, the fastest first."""
        return list(self.results.front)

    def best(
        self,
        *limits: str,
        by: str = "latency_ms",
        verdict: Verdict | str | None = None,
        loss: Loss | str | None = None,
    ) -> Trial:
        """The best configuration: the fastest, or the least `by`, that keeps the study's limits and these.

        limits: such as "peak_vram_gib<=20". verdict: the worst that is accepted. loss: the most that techniques may
        lose by the way they work. Raises UserError when nothing qualifies.
        """
        try:
            worst = None if verdict is None else Verdict(verdict)
            most = None if loss is None else Loss(loss)
        except ValueError as error:
            raise UserError(f"best(): {error}") from None
        return self.results.best(by=by, limits=[Limit.parse(text) for text in limits], verdict=worst, loss=most)

    def to_records(self) -> list[dict[str, Any]]:
        """One plain dict per trial: what it is, how it ended, its figures, and its parameters by "technique.name"."""
        return [_record(trial) for trial in self.results.trials]

    def to_dataframe(self) -> Any:
        """The same as a pandas.DataFrame, by the number of the trial. Raises UserError without pandas."""
        try:
            import pandas
        except ImportError:
            raise UserError("to_dataframe() needs pandas: pip install pandas (to_records() does without)") from None
        return pandas.DataFrame.from_records(self.to_records()).set_index("trial")

    def plot_front(self, y: str | None = None) -> Any:
        """A plotly figure: latency against `y`, by default drift, or peak memory where pictures were not judged."""
        import plotly.graph_objects as go

        y = y or ("drift" if self.results.quality_assessed else "peak_vram_gib")
        if y not in FIGURE:
            raise UserError(f"plot_front({y!r}): one of {', '.join(FIGURE)}")
        groups: dict[str, list[Trial]] = {"beaten": [], "breaks a limit": [], "Pareto front": []}
        for trial in self.results.complete:
            where = (
                "Pareto front" if trial in self.results.front else "beaten" if trial.acceptable else "breaks a limit"
            )
            groups[where].append(trial)
        figure = go.Figure()
        for name, trials in groups.items():
            known = [trial for trial in trials if trial.known_figure(y) is not None]
            figure.add_scatter(
                x=[trial.figure("latency_ms") for trial in known],
                y=[trial.figure(y) for trial in known],
                mode="lines+markers" if name == "Pareto front" else "markers",
                line={"dash": "dot", "width": 1},
                name=name,
                text=[f"trial {trial.number}: {html.escape(str(trial.configuration))}" for trial in known],
                hovertemplate="%{text}<br>%{x:.1f} ms, %{y:.3g}<extra></extra>",
            )
        figure.update_xaxes(title="latency, ms", rangemode="tozero")
        figure.update_yaxes(title=f"{FIGURE[y].label}, {FIGURE[y].unit}", rangemode="tozero")
        return figure.update_layout(title=self.name, template="plotly_white", height=420)

    def pictures(self, trial: Trial | int | None = None, most: int = 12) -> "Pictures":
        """The pictures of a trial (by default of the best) beside the reference's."""
        chosen = self._chosen(trial)
        return Pictures(self.results.reference, chosen, most)

    def compare(self, a: Trial | int, b: Trial | int) -> "ComparedTrials":
        """Two trials side by side, as they were measured; `paretune compare` measures both again in turns."""
        return ComparedTrials(self._chosen(a), self._chosen(b))

    def against_torch_compile(
        self, trial: Trial | int | None = None, *, lines: Mapping[str, int] | None = None
    ) -> "AgainstTorchCompile":
        """A trial (by default the best) beside the reference and torch.compile: warm-up, time, memory, pictures.

        lines: {"torch.compile": 1, "paretune": 6}, of code that each took; shown where it is given.
        """
        return AgainstTorchCompile(self.reference, self.torch_compile, self._chosen(trial), dict(lines or {}))

    def explain(self, trial: Trial | int | None = None, *, code: bool = False) -> "Explanation":
        """What a configuration (by default the best) does to which modules, in what order and why."""
        chosen = self._chosen(trial)
        pipelines = {k: PipelineFacts.from_dict(v) for k, v in self.results.record.pipelines.items()}
        return explanation_of(chosen.configuration, pipelines, code=code)

    def export(self, folder: Path | str, trial: Trial | int | None = None, *, unconfirmed: bool = False) -> Path:
        """Write a trial (by default the best) as a bundle, and return its folder. Raises UserError."""
        return export_bundle(self.results, self._chosen(trial), Path(folder), unconfirmed=unconfirmed)

    def report(self, folder: Path | str) -> Path:
        """Write the report, one HTML file, and return it."""
        return write_report_of(self.results, Path(folder))

    def _chosen(self, trial: Trial | int | None) -> Trial:
        if trial is None:
            return self.results.best()
        if isinstance(trial, Trial):
            return trial
        if not hasattr(trial, "__index__"):  # numbers of numpy, as in a DataFrame's index, have one
            raise UserError(f"{trial!r} is no trial: give one of results.trials, or its number")
        return self.results.trial(int(trial))

    def __repr__(self) -> str:
        return f"StudyResults({self.name!r}, {len(self.trials)} trials)"

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{html.escape(text)}</p>" for text in [self.headline, *self.doubts])
        return f"{said}{trials_table(self.front())}"


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle whose every file is as its manifest says."""

    folder: Path
    configuration: Configuration
    figures: Mapping[str, float]
    source: str
    """Of its apply.py."""
    readme: str

    @classmethod
    def read(cls, folder: Path) -> "LoadedBundle":
        """See load_bundle."""
        import tempfile

        with tempfile.TemporaryDirectory(prefix="paretune-bundle-") as scratch:
            opened = open_bundle(folder, Path(scratch) / "bundle")
            copy = opened.folder
            return cls(
                folder=folder.resolve(),
                configuration=Configuration.from_yaml((copy / "configuration.yaml").read_text()),
                figures=dict(opened.manifest.figures),
                source=(copy / "apply.py").read_text(),
                readme=(copy / "README.md").read_text() if (copy / "README.md").is_file() else "",
            )

    def apply(self, pipelines: Any, **options: Any) -> Any:
        """Run its apply() on a pipeline, or {name: pipeline}, in place; returns them. This runs the bundle's code.

        options: of that apply(); the bundle's compiled code is used where it has some, unless `artefacts` is None.
        """
        compiled = self.folder / "artefacts"
        if compiled.is_dir():
            options = {"artefacts": compiled, **options}
        namespace: dict[str, Any] = {"__name__": "apply", "__file__": str(self.folder / "apply.py")}
        exec(compile(self.source, str(self.folder / "apply.py"), "exec"), namespace)
        namespace["apply"](pipelines, **options)
        return pipelines

    def explain(self, *, code: bool = False) -> Explanation:
        """What its configuration does, in what order and why."""
        return explanation_of(self.configuration, {}, code=code)

    def _repr_html_(self) -> str:
        rows = [
            (FIGURE[name].label, FIGURE[name].text(value)) for name, value in self.figures.items() if name in FIGURE
        ]
        cells = "".join(f"<tr><td {CELL}>{label}</td><td {CELL}>{text}</td></tr>" for label, text in rows)
        return f"<p>{html.escape(str(self.configuration))}</p><table {STYLE}>{cells}</table>"


def _record(trial: Trial) -> dict[str, Any]:
    record: dict[str, Any] = {
        "trial": trial.number,
        "configuration": str(trial.configuration),
        "outcome": str(trial.outcome),
        "reason": trial.reason,
        "verdict": trial.verdict_words() if trial.complete else None,
        "confirmed": trial.complete and trial.confirmed,
        "acceptable": trial.acceptable,
        "on_front": trial in trial.results.front,
        **{figure.name: trial.known_figure(figure.name) for figure in FIGURES},
    }
    for step in trial.configuration.steps:
        record[step.technique] = True
        record |= {f"{step.technique}.{name}": value for name, value in step.values().items()}
    return record

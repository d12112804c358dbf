"""What a notebook shows of trials: tables, pictures side by side, a configuration in words."""

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..objectives.figures import FIGURE, FIGURES
from ..search_space import Configuration, PipelineFacts
from .results import Trial
from .review import explain, explanation_lines

STYLE = 'style="border-collapse: collapse; font-variant-numeric: tabular-nums"'
CELL = 'style="text-align: left; padding: 2px 10px 2px 0; vertical-align: top"'


@dataclass(frozen=True)
class Pictures:
    """Pictures of a trial beside the reference's."""

    reference: Trial
    trial: Trial
    most: int = 12

    @property
    def files(self) -> list[Path]:
        """Of the trial."""
        return self.trial.pictures()[: self.most]

    def __iter__(self) -> Iterator[Any]:
        """PIL pictures of the trial."""
        from PIL import Image

        return iter([Image.open(file) for file in self.files])

    def __len__(self) -> int:
        return len(self.files)

    def _repr_html_(self) -> str:
        judged = {str(one["file"]): one for one in self.trial.judged_pictures}
        before = {file.name: file for file in self.reference.pictures()}
        cells = []
        for file in self.files:
            verdict = judged.get(file.name, {}).get("verdict", "not assessed")
            shown = [
                f'<img src="{_inline(one)}" style="max-width: 12em">' for one in (before.get(file.name), file) if one
            ]
            cells.append(f"<td {CELL}>{''.join(shown)}<br>{html.escape(file.stem)}: {html.escape(str(verdict))}</td>")
        rows = "".join(f"<tr>{''.join(cells[at : at + 3])}</tr>" for at in range(0, len(cells), 3))
        return f"<p>reference, trial {self.trial.number}</p><table>{rows}</table>"


@dataclass(frozen=True)
class ComparedTrials:
    """Two trials of a study."""

    a: Trial
    b: Trial

    def figures(self) -> dict[str, tuple[float, float]]:
        """{figure: (of a, of b)}, as far as both have it."""
        known = {one.name: (self.a.known_figure(one.name), self.b.known_figure(one.name)) for one in FIGURES}
        return {name: (a, b) for name, (a, b) in known.items() if a is not None and b is not None}

    def __str__(self) -> str:
        lines = [f"trial {self.a.number}: {self.a.configuration}", f"trial {self.b.number}: {self.b.configuration}"]
        lines += [
            f"{FIGURE[n].label}: {FIGURE[n].text(a)}, {FIGURE[n].text(b)}" for n, (a, b) in self.figures().items()
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return trials_table([self.a, self.b])


@dataclass(frozen=True)
class AgainstTorchCompile:
    """What torch.compile does for a workflow, and what a trial does."""

    reference: Trial
    torch_compile: Trial | None
    trial: Trial
    lines: Mapping[str, int]

    def rows(self) -> dict[str, dict[str, str]]:
        """{what: {"unchanged", "torch.compile", "paretune": text}}; "not measured" where it was not."""
        columns = {"unchanged": self.reference, "torch.compile": self.torch_compile, "paretune": self.trial}
        known = {name: one for name, one in columns.items() if one is not None and one.complete}
        rows = {
            "warm-up": {name: one.text("cold_start_s") for name, one in known.items()},
            "inference time": {name: f"{one.text('latency_ms')}, {one.speed}" for name, one in known.items()},
            "peak memory": {name: one.text("peak_vram_gib") for name, one in known.items()},
            "pictures": {name: one.verdict_words() for name, one in known.items()},
        }
        if self.lines:
            rows["lines changed"] = {"unchanged": "0", **{name: str(count) for name, count in self.lines.items()}}
        return {what: {name: texts.get(name, "not measured") for name in columns} for what, texts in rows.items()}

    def __str__(self) -> str:
        return "\n".join(
            f"{what}: {', '.join(f'{k} {v}' for k, v in row.items())}" for what, row in self.rows().items()
        )

    def markdown(self) -> str:
        """The same as a table in Markdown, with the machine, the versions and how often each was timed under it."""
        rows = self.rows()
        names = list(next(iter(rows.values())))
        lines = [f"| | {' | '.join(names)} |", "| --- " * (1 + len(names)) + "|"]
        lines += [f"| {what} | {' | '.join(row.values())} |" for what, row in rows.items()]
        machine = self.reference.results.fingerprint
        calls = [shape["n"] for shape in self.reference.measurements["latency"]]
        blocks = self.reference.results.blocks.get(self.reference.number, {})
        how = f"{len(blocks)} blocks of fresh processes" if blocks else f"{min(calls)} calls in one process each"
        versions = ", ".join(f"{name} {machine.packages[name]}" for name in ("torch", "diffusers"))
        return "\n".join([*lines, "", f"{machine.device_name}, {machine.cpu_threads} threads, {versions}; {how}."])

    def _repr_html_(self) -> str:
        rows = self.rows()
        head = "".join(f"<th {CELL}>{name}</th>" for name in ["", *next(iter(rows.values()))])
        body = [
            f"<tr><th {CELL}>{what}</th>{''.join(f'<td {CELL}>{html.escape(text)}</td>' for text in row.values())}</tr>"
            for what, row in rows.items()
        ]
        return f"<table {STYLE}><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


@dataclass(frozen=True)
class Explanation:
    """A configuration in words."""

    text: str

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f'<pre style="white-space: pre-wrap">{html.escape(self.text)}</pre>'


def explanation_of(configuration: Configuration, pipelines: Mapping[str, PipelineFacts], *, code: bool) -> Explanation:
    """A configuration step by step."""
    steps = explain(configuration, pipelines)
    return Explanation("\n".join(explanation_lines(configuration, steps, code=code)))


def trials_table(trials: Sequence[Trial]) -> str:
    """An HTML table of trials, with what is known of them."""
    names = ["trial", "speed", "latency", "peak memory", "pictures", "configuration"]
    head = "".join(f"<th {CELL}>{name}</th>" for name in names)
    rows = []
    for trial in trials:
        cells = [str(trial.number), *(("", "", "", trial.reason) if not trial.complete else ())]
        if trial.complete:
            cells += [str(trial.speed), trial.text("latency_ms"), trial.text("peak_vram_gib"), trial.verdict_words()]
        cells.append(str(trial.configuration))
        rows.append("<tr>" + "".join(f"<td {CELL}>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return f"<table {STYLE}><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _inline(file: Path) -> str:
    """A picture as a data URL, small enough for a notebook."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(file) as picture:
        picture.thumbnail((384, 384))
        picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

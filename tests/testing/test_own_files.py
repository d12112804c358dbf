"""What authors of techniques and metrics are told by the contract that ships, in a test and on the command line."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paretune.objectives.drift import METRICS, Metric
from paretune.search_space import Technique, forget_techniques, load_techniques
from paretune.testing import check_metric, check_technique

GOOD = """
from typing import Literal

from paretune.objectives.drift import Metric
from paretune.search_space import Axis, Loss, Parameters, Technique, denoisers, torch_modules


class CountedParameters(Parameters):
    by: Literal[1, 2] = 1


def counted(pipelines, *, by):
    \"\"\"Count the denoiser's calls.\"\"\"

    def count(denoiser):
        inner = denoiser.forward

        def forward(*args, **kwargs):
            denoiser.calls += by
            return inner(*args, **kwargs)

        denoiser.calls, denoiser.forward = 0, forward

    for denoiser in denoisers(pipelines):
        count(denoiser)


def took_effect(pipelines, *, by):
    counted = all(getattr(denoiser, "calls", 0) for denoiser in denoisers(pipelines))
    return None if counted else "no call was counted"


TECHNIQUES = (
    Technique(
        name="counted", axis=Axis.CACHING, loss=Loss.BIT_IDENTICAL, summary="Counts calls.", source="none",
        parameters=CountedParameters, apply=counted, took_effect=took_effect, helpers=(torch_modules, denoisers),
    ),
)
METRICS = (
    Metric(
        name="mean_difference", unit="1", higher_is_better=False, best=0.0, summary="mean difference", source="none",
        compute=lambda reference, candidate: (reference - candidate).abs().mean(dim=(1, 2, 3)),
    ),
)
"""
PSNR = next(metric for metric in METRICS if metric.name == "psnr_db")


@pytest.fixture
def technique_of(tmp_path: Path) -> Iterator[Callable[..., Technique]]:
    """The technique `counted`, written with these changes to its file."""

    def load(*changes: tuple[str, str]) -> Technique:
        text = GOOD
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        (tmp_path / "own.py").write_text(text)
        (known,) = load_techniques(tmp_path / "own.py")
        return known

    yield load
    forget_techniques()


def test_a_technique_that_keeps_its_promises(technique_of: Callable[..., Technique]) -> None:
    assert check_technique(technique_of()) == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([("helpers=(torch_modules, denoisers)", "helpers=(denoisers,)")], "apply.py would not know torch_modules"),
        ([("helpers=(torch_modules, denoisers)", "helpers=()")], "would not know denoisers, which counted() uses"),
        ([("def counted(pipelines, *, by)", "def counted(pipelines, *, amount)")], "takes ['amount'], and its Param"),
        ([('summary="Counts calls."', 'summary="Counts"')], "the summary is a sentence"),
        ([('else "no call was counted"', "else None")], "does not notice that it was not applied"),
        ([("if counted else", "if not counted else")], "took_effect says it did not: no call was counted"),
        (
            [("return inner(*args, **kwargs)", "return (inner(*args, **kwargs)[0] * 1.01,)")],
            "counted(by=1): bit-identical, and the picture has other bits",
        ),
        (
            [
                ("return inner(*args, **kwargs)", "return (inner(*args, **kwargs)[0] * 1.01,)"),
                ("BIT_IDENTICAL", "REORDERED"),
            ],
            "reordered, and the picture moved by ",
        ),
        (
            [
                ("return inner(*args, **kwargs)", "return (inner(*args, **kwargs)[0] * (1 + denoiser.calls / 1e6),)"),
                ("BIT_IDENTICAL", "REORDERED"),
            ],
            "the same request gives another picture the second time",
        ),
        (
            [("return inner(*args, **kwargs)", "return (inner(*args, **kwargs)[0] * float('nan'),)")],
            "the picture has values that are not finite",
        ),
    ],
)
def test_a_technique_that_does_not(
    technique_of: Callable[..., Technique], changes: list[tuple[str, str]], sentence: str
) -> None:
    with pytest.raises(AssertionError, match=re.escape(sentence)):
        check_technique(technique_of(*changes))


def test_a_technique_that_is_refused_here_is_only_looked_at(technique_of: Callable[..., Technique]) -> None:
    known = dataclasses.replace(technique_of(), refuses=lambda target, pipelines, parameters: "not here")
    assert check_technique(known) == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"unit": ""}, "the unit is empty"),
        ({"best": 99.0}, "not 99.0 each"),
        ({"higher_is_better": False}, "which is not always worse"),
        ({"compute": lambda r, c: (r - c).abs().mean().repeat(len(r)), "best": 0.0}, "judged together get"),
        ({"compute": lambda r, c: (r - c).abs().mean()[None], "best": 0.0}, "get [0.0], not 0.0 each"),
        ({"compute": lambda r, c: r.zero_().mean(dim=(1, 2, 3)), "best": 0.0}, "it changes the pictures"),
        ({"compute": lambda r, c: r.mean(dim=(1, 2, 3)) * 0, "best": 0.0}, "as if it were the same"),
    ],
)
def test_a_metric_that_does_not_keep_its_promises(changes: dict[str, Any], sentence: str) -> None:
    metric: Metric = dataclasses.replace(PSNR, name="mine", **changes)
    with pytest.raises(AssertionError, match=re.escape(sentence)):
        check_metric(metric)


@pytest.mark.parametrize(
    ("text", "lines", "code"),
    [
        (GOOD, ["ok    counted: applied with 2 ", "ok    mean_difference: keeps what a metric promises"], 0),
        (
            GOOD.replace(".mean(dim=(1, 2, 3))", ".mean()[None]").replace('"Counts calls."', '"Counts"'),
            ["FAIL  counted: the summary is a sentence", "FAIL  mean_difference: equal pictures of "],
            1,
        ),
        pytest.param(
            "x = 3",
            ["FAIL  {file}: ValueError: it defines neither TECHNIQUES nor METRICS"],
            1,
            marks=pytest.mark.slow,
        ),
        ("import nowhere_to_be_found", ["FAIL  {file}: ModuleNotFoundError: No module named"], 1),
    ],
)
@pytest.mark.slow
def test_the_command_line_prints_a_line_for_each(tmp_path: Path, text: str, lines: list[str], code: int) -> None:
    (tmp_path / "own.py").write_text(text)
    command = [sys.executable, "-m", "paretune.testing", "own.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == code, ran.stderr
    printed = ran.stdout.splitlines()
    assert len(printed) == len(lines)
    for line, beginning in zip(printed, lines, strict=True):
        assert line.startswith(beginning.format(file="own.py"))

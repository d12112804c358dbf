"""The page of one configuration in the dashboard."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("a2wsgi", reason="the dashboard extra is not installed")
from paretune.search_space import Configuration
from support.page import Page
from support.replayed import add, ask_optuna, measured, replay, trial_run, url_of
from support.served import Visitor, served

TRIALS = "/studies/replayed/trials"
SECRET = "hunter2-hunter2"


@pytest.fixture(scope="module")
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    folder = tmp_path_factory.mktemp("study")
    replay(folder)
    ask_optuna(folder)
    log = folder / "files" / "replayed" / "trial-0002" / "log.txt"
    log.write_text(f"loading <weights>\npostgresql://someone:{SECRET}@host/studies\n")
    with served(url_of(folder), folder) as visitor:
        yield visitor


def text_of(visitor: Visitor, path: str) -> str:
    return Page(visitor.get(path).text).text


def test_it_shows_the_plan_and_the_python_that_runs(visitor: Visitor) -> None:
    text = text_of(visitor, f"{TRIALS}/2")
    for words in (
        "Trial 2, best",
        "deepcache interval=3, branch=0, full_percent=0",
        "before compilation, which takes the parts it finds",
        "def channels_last(pipelines",
    ):
        assert words in text


def test_figures_stages_and_memory_stand_beside_the_reference(visitor: Visitor) -> None:
    text = text_of(visitor, f"{TRIALS}/2")
    assert "1.00 s 801 ms 401 ms" in text
    assert "2.00 GiB 2.50 GiB 2.10 GiB" in text
    assert "cold start, measured median of real cold processes 6.0 s 42.6 s 5.7 s" in text
    page = Page(visitor.get(f"{TRIALS}/2").text)
    bars = [given["aria-label"] for tag, given in page.tags if tag == "svg" and given.get("role") == "img"]
    assert len(bars) == 6
    assert "denoising 802 ms" in str(bars[0])


def test_torch_compile_at_its_best_is_one_of_those_it_is_compared_with(tmp_path: Path) -> None:
    """It is named everywhere, and never taken for the best one because of its name."""
    results = replay(tmp_path)
    repeated = Configuration.of({"channels_last": {}, "torch_compile": {"region": "repeated_blocks"}})
    figures = measured(770.0, 2.5, "imperceptible", 0.42, 46.0, device="cpu")
    add(results, trial_run(tmp_path, 8, repeated, "cpu", measurements=figures))
    with served(url_of(tmp_path), tmp_path) as visitor:
        assert "torch.compile at its best trial 8" in text_of(visitor, f"{TRIALS}/2")
        front = Page(visitor.get("/studies/replayed").text)
    rows = {
        given["data-number"]: given.get("class") for tag, given in front.tags if tag == "tr" and "data-number" in given
    }
    assert rows["8"] is None
    assert rows["2"] == "best"


def test_every_metric_of_every_picture_is_there_the_worst_first(visitor: Visitor) -> None:
    text = text_of(visitor, f"{TRIALS}/2")
    assert text.index("cat~1-0.png") < text.index("dog-0.png")
    for words in ("SSIMULACRA2", "84.2", "36.2", "largest difference, of 255 levels"):
        assert words in text


def test_what_speaks_against_it_is_said(visitor: Visitor) -> None:
    assert "Breaks a limit of the study: pictures are visible, the limit is near-lossless." in text_of(
        visitor, f"{TRIALS}/3"
    )
    assert "Measured in study earlier, trial 4: 3 hours old." in text_of(visitor, f"{TRIALS}/7")
    assert "Nothing that was measured." in text_of(visitor, f"{TRIALS}/2")


def test_a_failure_has_its_reason_and_its_log(visitor: Visitor) -> None:
    text = text_of(visitor, f"{TRIALS}/5")
    for words in ("apply_error", "apply: it <broke>", "RuntimeError: it broke", "fused_qkv"):
        assert words in text


def test_the_log_is_shown_as_text_and_without_secrets(visitor: Visitor) -> None:
    text = text_of(visitor, f"{TRIALS}/2")
    assert "loading <weights>" in text
    assert SECRET not in visitor.get(f"{TRIALS}/2").text


def test_an_ablation_that_was_not_run_has_its_command(visitor: Visitor) -> None:
    assert "paretune ablate replayed --trial 2" in text_of(visitor, f"{TRIALS}/2")


@pytest.mark.parametrize("path", [f"{TRIALS}/99", f"{TRIALS}/x", "/studies/nothing/trials/1"])
def test_what_is_not_there_is_a_sentence(visitor: Visitor, path: str) -> None:
    answer = visitor.get(path)
    assert answer.status in (404, 409)
    assert "This did not work" in answer.text

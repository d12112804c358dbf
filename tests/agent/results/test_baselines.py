"""Every claim is held against what people use today: nothing, torch.compile as they write it and at its best."""

from pathlib import Path

import pytest
from paretune.agent.bundle.export import bundle_readme
from paretune.agent.measuring.finalists import finalists
from paretune.agent.results import TORCH_COMPILE, Results, headline, is_torch_compile_alone
from paretune.agent.review import row_of, study_view
from paretune.agent.review.report import report_html
from paretune.search_space import Configuration
from paretune.studies import RunKind
from support.replayed import CACHED, add, measured, replay, run, trial_run

WHOLE = {"region": "whole", "mode": "reduce-overhead"}
AT_ITS_BEST = Configuration.of({"channels_last": {}, "torch_compile": WHOLE})


@pytest.fixture
def results(tmp_path: Path) -> Results:
    found = replay(tmp_path, device="cuda")
    (tmp_path / "files" / "replayed" / "trial-0008" / "pictures").mkdir(parents=True)
    figures = measured(500.0, 2.4, "imperceptible", 0.4, 47.0, "cuda")
    return add(found, trial_run(tmp_path, 8, AT_ITS_BEST, "cuda", measurements=figures))


def confirmed(results: Results, ours_ms: float) -> Results:
    blocks_ms = {0: 1000.0, 1: 800.0, 2: ours_ms, 8: 500.0}
    return add(
        results,
        *(
            run(RunKind.BLOCK, trial, block, "cuda", session=2, latency_ms=ms + block + trial / 10 * (block % 2))
            for block in range(6)
            for trial, ms in blocks_ms.items()
        ),
    )


@pytest.mark.parametrize(
    ("techniques", "alone"),
    [
        ({"torch_compile": {}}, True),
        ({"torch_compile": WHOLE, "channels_last": {}, "torch_compile_vae": {}}, True),
        ({"torch_compile": {"recipe": "coordinate_descent"}}, False),
        ({"torch_compile": WHOLE, "fused_qkv": {}}, False),
        ({"torch_compile_vae": {}, "channels_last": {}}, False),
        ({}, False),
    ],
)
def test_what_torch_compile_alone_is(techniques: dict[str, dict[str, str]], alone: bool) -> None:
    assert is_torch_compile_alone(Configuration.of(techniques)) is alone


def test_the_third_baseline_is_the_fastest_of_torch_compile_alone(results: Results, tmp_path: Path) -> None:
    assert results.torch_compile_best is results.numbered[8]
    slower = replay(tmp_path / "other", device="cuda")
    assert slower.torch_compile_best is slower.of(TORCH_COMPILE)


def test_a_winner_is_held_against_all_three_in_the_same_blocks(results: Results) -> None:
    winner = confirmed(results, 400.0).trial(2)
    assert winner.configuration == CACHED
    assert winner.confirmed
    compared = row_of(winner).confirmation
    assert compared is not None
    assert [round(one["times"], 1) for one in compared.values()] == [2.5, 2.0, 1.2]
    assert list(compared) == ["reference", "torch_compile", "torch_compile_best"]
    assert "times as fast as torch.compile at its best" in headline(results)
    assert study_view(results).torch_compile_best == 8
    assert results.torch_compile_best is results.numbered[8]  # what the blocks measured, whatever else there is


def test_what_torch_compile_alone_beats_is_not_confirmed(results: Results) -> None:
    loser = confirmed(results, 600.0).trial(2)
    assert loser.confirmation is not None
    assert loser.confirmation.faster
    assert not loser.confirmed
    assert any("torch.compile alone is faster still" in str(doubt) for doubt in loser.doubts())


def test_the_third_baseline_is_no_finalist_of_its_own(results: Results) -> None:
    assert 8 not in [trial.number for trial in finalists(results, 1)]


def test_every_page_shows_it_and_how_busy_the_gpu_was(results: Results) -> None:
    winner = confirmed(results, 400.0).trial(2)
    assert winner.gpu_busy_share == pytest.approx(0.964)
    assert "GPU busy in 96 % of the time against 96 %" in headline(results)
    page = report_html(results)
    assert "Against torch.compile at its best" in page
    assert "GPU busy 96 %" in page
    readme = bundle_readme(winner)
    assert "| torch.compile at its best | 50" in readme
    assert "| GPU busy |" in readme
    assert str(AT_ITS_BEST) in readme


def test_on_a_cpu_nothing_is_said_of_a_gpu(tmp_path: Path) -> None:
    results = replay(tmp_path)
    assert "GPU busy" not in bundle_readme(results.trial(2)) + headline(results)
    assert results.trial(2).gpu_busy_share is None

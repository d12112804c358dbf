"""A recorded study, searched again without running anything."""

from pathlib import Path

import pytest
from paretune.agent.measuring import ReplayRunner
from paretune.agent.results import Results
from paretune.agent.search import launch
from paretune.studies import Records, read_study
from support.launched import Launched


def figures(results: Results) -> list[tuple[str, str, float | None]]:
    return [
        (str(trial.configuration), trial.outcome, results.latency_ms(trial) if trial.complete else None)
        for trial in results.trials
    ]


@pytest.mark.slow
def test_the_same_recorded_study_gives_the_same_winner(launched: Launched, tmp_path: Path) -> None:
    recorded = Records(launched.storage)
    record = recorded.study("tiny")
    runner = ReplayRunner(record, [linked.run for linked in recorded.runs("tiny")])
    again = launch(read_study(str(launched.file)), storage=f"sqlite:///{tmp_path}/again.db", trials=5, runner=runner)
    before = Results(recorded, "tiny")
    assert figures(again) == figures(before)
    assert again.best().configuration == before.best().configuration
    assert [str(t.configuration) for t in again.front] == [str(t.configuration) for t in before.front]
    assert again.floor == before.floor


@pytest.mark.slow
def test_what_was_not_recorded_is_a_result_too(launched: Launched, tmp_path: Path) -> None:
    recorded = Records(launched.storage)
    runs = [linked.run for linked in recorded.runs("tiny") if linked.trial == 0]
    runner = ReplayRunner(recorded.study("tiny"), runs)
    again = launch(read_study(str(launched.file)), storage=f"sqlite:///{tmp_path}/again.db", trials=2, runner=runner)
    assert "was recorded" in again.failures[0].reason

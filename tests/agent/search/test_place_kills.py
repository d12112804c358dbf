"""A place and the launcher killed at random moments: nothing lost, nothing twice, no process left."""

from pathlib import Path

import pytest

pytest.importorskip("ray")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_places_and_launchers_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    from place_kills import TRIALS, Killing

    killing = Killing(tmp_path, workers=2, launchers=1)
    killing.run()
    assert len(killing.kills) == 3
    assert [(kill.lost, kill.twice, kill.left) for kill in killing.kills] == [(0, 0, 0)] * 3
    assert set(killing.trials) == {TRIALS}

"""Folders are written whole, and what a killed process had begun does not stay."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paretune.agent.trial.files import whole_folder

BEGINS = """
import sys, time
from pathlib import Path
from paretune.agent.trial.files import whole_folder

with whole_folder(Path(sys.argv[1])) as draft:
    (draft / "half").write_text("half")
    print(flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_had_begun_is_removed_and_what_is_in_use_stays(tmp_path: Path) -> None:
    others = []
    for _ in range(2):
        command = [sys.executable, "-c", BEGINS, str(tmp_path / "bundle")]
        others.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert others[-1].stdout is not None
        others[-1].stdout.readline()
    (tmp_path / ".bundle.building").mkdir()
    long_ago = time.time() - 3600
    drafts = set(tmp_path.glob(".bundle.draft-*"))
    for draft in drafts:
        os.utime(draft, (long_ago, long_ago))
    others[0].kill()
    assert others[0].wait() == -signal.SIGKILL
    with whole_folder(tmp_path / "bundle") as draft:
        (draft / "whole").write_text("whole")
    left = {file.name for file in tmp_path.iterdir() if file not in drafts}
    assert left == {"bundle", ".bundle.building"}
    assert len([draft for draft in drafts if draft.exists()]) == 1
    others[1].kill()
    others[1].wait()


def test_a_folder_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "bundle") as draft:
        (draft / "whole").write_text("whole")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "bundle"):
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.rglob("*")] == ["bundle", "whole"]

"""Every process of ours ends with all that it started, soon, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from paretune.agent.trial import measure_cold_start, run_script
from paretune.agent.trial.process_tree import PIPE, ProcessTree, run_process
from paretune.studies import Outcome
from support.launching import processes, wait_until

# One in the group of the process, one in a session of its own, and one whose parent has ended: all hold its stdout
# and stderr open.
LEAVES_THREE = """
import subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)
subprocess.run([sys.executable, "-c", f"import subprocess; subprocess.Popen({sleep!r}, start_new_session=True)"])
"""
MEASURES = """
import json, pathlib
out = pathlib.Path(sys.argv[-1])
out.mkdir()
measured = {"phases_s": {"import": 1, "load": 1, "apply": 1}, "first_call_ms": 5.0, "after_s": 0.0}
(out / "result.json").write_text(json.dumps(measured))
"""
WAITS = "\nimport time; time.sleep(1000)"
SOON_S = 20


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    mark = f"{request.node.name}-{os.getpid()}"
    monkeypatch.setenv("PARETUNE_TEST_MARK", mark)
    return mark


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_process_that_leaves_others_behind_is_not_waited_for(tmp_path: Path, mark: str) -> None:
    started = time.monotonic()
    ended = run_process(python(f"{LEAVES_THREE}sys.exit(3)"), log=tmp_path / "log", timeout_s=300)
    assert (ended.exit_code, processes(mark)) == (3, [])
    assert time.monotonic() - started < SOON_S
    assert 0 < ended.seconds < SOON_S


def test_at_its_deadline_all_of_it_ends(tmp_path: Path, mark: str) -> None:
    with pytest.raises(TimeoutError):
        run_process(python(LEAVES_THREE + WAITS), log=tmp_path / "log", timeout_s=2)
    assert processes(mark) == []


def test_a_cold_start_and_a_bundles_process_end_when_their_script_does(tmp_path: Path, mark: str) -> None:
    """`verify` runs a bundle by run_script."""
    (tmp_path / "run.py").write_text(LEAVES_THREE + MEASURES)
    started = time.monotonic()
    assert measure_cold_start(tmp_path, "cpu", timeout_s=300).outcome is Outcome.COMPLETE
    assert processes(mark) == []
    measured = run_script(tmp_path / "run.py", [], out=tmp_path / "out", environment={}, timeout_s=300)
    assert (measured["first_call_ms"], processes(mark)) == (5.0, [])
    (tmp_path / "run.py").write_text(LEAVES_THREE + "raise ValueError('no such\\n  layer')")
    with pytest.raises(RuntimeError, match="ValueError: no such"):
        run_script(tmp_path / "run.py", [], out=tmp_path / "out", environment={}, timeout_s=300)
    assert processes(mark) == []
    assert time.monotonic() - started < 3 * SOON_S


@pytest.mark.parametrize("killed", ["the launching process", "the keeper", "the process itself"])
def test_whichever_is_killed_nothing_is_left(tmp_path: Path, mark: str, killed: str) -> None:
    text = LEAVES_THREE + f"open({str(tmp_path / 'ready')!r}, 'w').close()" + WAITS
    launcher = f"""
import sys
from pathlib import Path
from paretune.agent.trial.process_tree import run_process
command, log = [sys.executable, "-c", {text!r}, "the process itself"], Path({str(tmp_path / "log")!r})
print(run_process(command, log=log, timeout_s=300))
"""
    environment = {**os.environ, "PARETUNE_TEST_MARK": mark}
    launching = subprocess.Popen(python(launcher), stdout=subprocess.PIPE, text=True, env=environment)
    wait_until((tmp_path / "ready").exists, 60, "it does not start")
    (keeper,) = psutil.Process(launching.pid).children()
    (itself,) = [p for p in keeper.children() if p.cmdline()[-1] == "the process itself"]
    os.kill({"the keeper": keeper.pid, "the process itself": itself.pid}.get(killed, launching.pid), signal.SIGKILL)
    said, _ = launching.communicate(timeout=60)
    assert ("exit_code=-9" in said) is (killed != "the launching process")
    wait_until(lambda: not processes(mark), SOON_S, f"left over: {processes(mark)}")


def test_a_process_that_kills_its_own_group_is_noticed(tmp_path: Path, mark: str) -> None:
    suicide = f"{LEAVES_THREE}import os, signal; os.killpg(0, signal.SIGKILL)"
    assert run_process(python(suicide), log=tmp_path / "log", timeout_s=300).exit_code == -signal.SIGKILL
    assert processes(mark) == []


def test_a_process_that_ignores_what_can_be_ignored_is_killed(mark: str) -> None:
    stubborn = "import signal; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; print('ready', flush=True)"
    with ProcessTree(python(stubborn + WAITS), stdout=PIPE) as tree:
        assert tree.stdout.readline() == b"ready\n"
        assert tree.wait(0) is None
    assert processes(mark) == []


def test_signals_reach_a_process_as_they_would_without_a_keeper(tmp_path: Path) -> None:
    """The keeper blocks some for itself, and what it starts would inherit that."""
    text = f"import signal; open({str(tmp_path / 'blocked')!r}, 'w').write(str(len(signal.pthread_sigmask(0, []))))"
    assert run_process(python(text), log=tmp_path / "log", timeout_s=60).exit_code == 0
    assert json.loads((tmp_path / "blocked").read_text()) == 0


def test_a_command_that_does_not_exist_has_failed(tmp_path: Path) -> None:
    assert run_process([str(tmp_path / "nothing")], log=tmp_path / "log", timeout_s=60).exit_code == 127

"""What processes print is bounded on disk and in memory."""

import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
from paretune.agent.trial import run_script
from paretune.agent.trial.folder import LOG
from paretune.agent.trial.log import KEPT_BYTES, MOST_BYTES, LimitedLog
from paretune.agent.trial.process_tree import run_process
from paretune.agent.trial.result import log_tail

PRINTS_MUCH = """
import os, time
os.write(2, b"the first line\\n")
for _ in range(300):
    os.write(2, b"spam " * 200000)
    time.sleep(0.01)  # a disk in memory takes all of it in less time than passes between two looks at the log
os.write(2, b"\\nthe last line, with hf_aVerySecretToken\\n")
"""
MUCH_BYTES = 300 * 1_000_000


def test_a_log_keeps_its_beginning_and_its_end_and_says_what_is_left_out(tmp_path: Path) -> None:
    file, largest = tmp_path / LOG, 0
    tracemalloc.start()
    ended = threading.Event()

    def watch() -> None:
        nonlocal largest
        while not ended.is_set():
            largest = max(largest, file.stat().st_blocks * 512 if file.exists() else 0)
            time.sleep(0.01)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        assert run_process([sys.executable, "-c", PRINTS_MUCH], log=file, timeout_s=100).exit_code == 0
        tail = log_tail(tmp_path)
        used = tracemalloc.get_traced_memory()[1]
    finally:
        ended.set()
        watching.join()
        tracemalloc.stop()
    text = file.read_text()
    assert len(text) < MOST_BYTES
    assert text.startswith("the first line\nspam ")
    assert "MiB of output are left out here ...]" in text
    assert text.count("left out here") == 1
    assert text.endswith("the last line, with hf_aVerySecretToken\n")
    assert tail.endswith("the last line, with hf_***\n")
    assert len(tail) <= 4000
    assert used < MOST_BYTES, "the launching process does not hold it"
    assert largest < MUCH_BYTES


def test_what_is_left_out_is_counted_over_several_times(tmp_path: Path) -> None:
    file = tmp_path / LOG
    file.touch()
    log, written = LimitedLog(file), 0
    with file.open("ab", buffering=0) as process:
        for _ in range(5):
            written += process.write(b"x" * (MOST_BYTES + 1))
            log.limit()
            assert file.stat().st_blocks * 512 < 3 * KEPT_BYTES, "the disk has it back while the process still writes"
    log.finish()
    assert file.stat().st_size < 2 * KEPT_BYTES + 200
    text = file.read_text()
    left_out = float(text.partition("[... ")[2].partition(" MiB")[0])
    assert left_out == pytest.approx((written - 2 * KEPT_BYTES) / 2**20, abs=0.1)


def test_last_words_that_come_while_the_log_is_shortened_are_kept(tmp_path: Path) -> None:
    file = tmp_path / LOG
    file.touch()
    log, over = LimitedLog(file), threading.Event()
    shortening = threading.Thread(target=lambda: [log.limit() for _ in iter(over.is_set, True)])
    shortening.start()
    with file.open("ab", buffering=0) as process:
        for number in range(40):
            process.write(b"x" * MOST_BYTES)
            process.write(f"word {number}\n".encode())
    over.set()
    shortening.join()
    log.finish()
    assert file.read_text().endswith("xword 39\n")


@pytest.mark.parametrize("times", [1, 3])
def test_where_files_have_no_holes_the_log_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    monkeypatch.setattr("paretune.agent.trial.log._punch_hole", lambda *_: False)
    file = tmp_path / LOG
    file.write_bytes(b"first")
    log = LimitedLog(file)
    for _ in range(times):
        with file.open("ab") as process:
            process.write(b"x" * (MOST_BYTES + 1) + b"last")
        log.limit()
        assert file.stat().st_size < 2 * KEPT_BYTES + 200
    text = file.read_text()
    assert text.startswith("first")
    assert text.endswith("last")
    assert text.count("left out here") == 1


def test_a_short_log_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text("ä" * 3000)
    LimitedLog(tmp_path / LOG).finish()
    assert log_tail(tmp_path) == "ä" * 3000
    assert log_tail(tmp_path / "nothing") == ""
    LimitedLog(tmp_path / "nothing").limit()
    LimitedLog(tmp_path / "nothing").finish()


def test_a_bundles_process_that_prints_without_end_says_its_last_words(tmp_path: Path) -> None:
    """`verify` and cold starts."""
    (tmp_path / "run.py").write_text(f"{PRINTS_MUCH}\nos.write(1, b'spam' * 10**6)\nraise ValueError('too much')")
    with pytest.raises(RuntimeError, match=r"^ValueError: too much$"):
        run_script(tmp_path / "run.py", [], out=tmp_path / "out", environment={}, timeout_s=100)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < MOST_BYTES + KEPT_BYTES

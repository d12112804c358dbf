"""The dashboard while its database is taken away, put back, and replaced by another one."""

import http.client
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("a2wsgi", reason="the dashboard extra is not installed")
from paretune.agent.results import Results
from paretune.agent.review.app import shelf
from paretune.studies import Records
from support.page import Page
from support.replayed import add, ask_optuna, replay, trial_run, url_of
from support.served import served

PATHS = ("/", "/studies/replayed", "/studies/replayed/ratings", "/studies/replayed/files/2/cat-0.png", "/api/studies")


def test_pages_say_that_the_database_is_gone_and_read_the_one_that_is_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "FRESH_S", 0.0)
    replay(tmp_path)
    ask_optuna(tmp_path)
    file = tmp_path / "paretune.db"
    with closing(sqlite3.connect(file)) as now, closing(sqlite3.connect(tmp_path / "restored")) as copy:
        now.backup(copy)
    with served(url_of(tmp_path), tmp_path) as visitor:
        visitor.open("/")
        assert all(visitor.get(path).status == 200 for path in PATHS)
        file.rename(tmp_path / "away.db")
        for path in PATHS:
            answer = visitor.get(path)
            assert answer.status in (409, 503), path
            assert f"there is no database {file}" in Page(answer.text).text
        refused = visitor.post("/studies/replayed/choose/2", {"by": "Ann"})
        assert f"there is no database {file}" in refused.json()["error"]
        assert not file.exists(), "nothing makes an empty one in its place"
        assert f"there is no database {file}" in next_news(visitor.port)

        (tmp_path / "away.db").rename(file)
        assert all(visitor.get(path).status == 200 for path in PATHS)

        # Another one, as after a restore from a copy: what is written there is seen.
        for left in (file, tmp_path / "paretune.db-wal", tmp_path / "paretune.db-shm"):
            left.unlink(missing_ok=True)
        (tmp_path / "restored").rename(file)
        assert visitor.get("/studies/replayed").status == 200
        changed = Results(Records(url_of(tmp_path)), "replayed")
        add(changed, trial_run(tmp_path, 9, changed.trial(1).configuration, "cpu", outcome="oom", reason="too large"))
        assert "too large" in visitor.get("/studies/replayed").text
        assert visitor.post("/studies/replayed/choose/2", {"by": "Ann"}).status == 200


def next_news(port: int) -> str:
    """The first event of the list of studies."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/events")
    stream = connection.getresponse()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        line = stream.readline().decode()
        if line.startswith("data: "):
            connection.close()
            return line
    raise AssertionError("nothing came")

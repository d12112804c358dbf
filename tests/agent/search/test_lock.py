"""One launcher a study: the lock lies in the database, so that it holds wherever they run from."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from paretune.agent.search import lock, only_launcher
from paretune.studies import LaunchRecord, Records, UserError
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from support.launching import wait_until


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(f"sqlite:///{tmp_path}/paretune.db")


def entered(records: Records) -> list[LaunchRecord]:
    with Session(records.engine) as session:
        return list(session.scalars(select(LaunchRecord)))


def change(records: Records, **values: object) -> None:
    with records.engine.begin() as connection:
        connection.execute(update(LaunchRecord).values(**values))


def test_a_second_launcher_is_told_who_the_first_one_is(records: Records) -> None:
    with only_launcher(records, "a"):
        with (
            pytest.raises(UserError, match=f"^study a is being launched by process {os.getpid()} already$"),
            only_launcher(Records(records.url), "a"),
        ):
            pass
        with only_launcher(records, "b", doing="judged again"):
            assert len(entered(records)) == 2, "another study is another matter"
    assert not entered(records)
    with only_launcher(records, "a"):
        pass


def test_a_launcher_that_was_killed_here_is_taken_over_at_once(records: Records, tmp_path: Path) -> None:
    code = (
        "import sys, time; from paretune.agent.search import only_launcher; from paretune.studies import Records\n"
        "with only_launcher(Records(sys.argv[1]), 'a'):\n    print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", code, records.url], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"by process {other.pid} already"), only_launcher(records, "a"):
            pass
        other.kill()
    began = time.monotonic()
    with only_launcher(records, "a"):
        assert [one.pid for one in entered(records)] == [os.getpid()]
    assert time.monotonic() - began < lock.DEAD_AFTER_S / 2


def test_a_launcher_on_another_host_holds_it_until_it_was_silent_for_a_minute(records: Records) -> None:
    with only_launcher(records, "a"):
        change(records, token="theirs", host="far-away", process_table="of another host", pid=1)
        with pytest.raises(UserError, match=r"by process 1 on far-away \(if it was killed there, try again in 60 s\)"):
            only_launcher(records, "a").__enter__()
        change(records, heard_s=LaunchRecord.heard_s - lock.DEAD_AFTER_S - 5)
        with only_launcher(Records(records.url), "a"):
            assert [one.pid for one in entered(records)] == [os.getpid()]


def test_a_killed_launcher_that_nobody_waits_for_is_no_launcher(records: Records) -> None:
    with subprocess.Popen(["sleep", "600"]) as zombie, only_launcher(records, "a"):
        process = psutil.Process(zombie.pid)
        change(records, token="theirs", pid=zombie.pid, process_began_s=process.create_time())
        with pytest.raises(UserError, match=f"by process {zombie.pid} already"):
            only_launcher(records, "a").__enter__()
        zombie.kill()
        wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE, 30, "it was killed and runs")
        with only_launcher(records, "a"):
            assert [one.pid for one in entered(records)] == [os.getpid()]


def test_a_number_that_another_process_has_now_is_no_launcher(records: Records) -> None:
    with only_launcher(records, "a"):
        change(records, token="theirs", pid=os.getppid(), process_began_s=LaunchRecord.process_began_s - 1000)
        with only_launcher(Records(records.url), "a"):
            pass


def test_a_launcher_that_was_taken_over_stops_and_does_not_end_the_other_ones_hold(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    with only_launcher(records, "a") as held:
        held.check()
        change(records, token="theirs")

        def lost() -> bool:
            try:
                held.check()
            except UserError as error:
                return "another launcher has taken over study a" in str(error)
            return False

        wait_until(lost, 10, "it goes on")
    assert [one.token for one in entered(records)] == ["theirs"]


def test_whoever_holds_it_renews_it(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    with only_launcher(records, "a"):
        change(records, heard_s=0.0)
        wait_until(lambda: entered(records)[0].heard_s > 0, 10, "it is silent")

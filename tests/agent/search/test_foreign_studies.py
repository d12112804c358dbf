"""Optuna studies that paretune did not make, and Optuna's tables of another version: nothing is added to them."""

import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from paretune.studies import UserError
from support.launched import Cli
from support.replayed import NAME, replay, url_of
from support.replaying import World, world_in


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return world_in(tmp_path, monkeypatch)


def strangers(storage: str, name: str, directions: list[str]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name=name, storage=storage, directions=directions)
    study.add_trial(optuna.trial.create_trial(values=[0.5] * len(directions)))
    return study


@pytest.mark.parametrize("directions", [["minimize"] * 3, ["maximize"]])
def test_a_strangers_study_is_refused_before_anything_is_measured(world: World, directions: list[str]) -> None:
    theirs = strangers(world.storage, "a", directions)
    before = [(trial.number, trial.values, trial.user_attrs) for trial in theirs.get_trials()]
    with pytest.raises(UserError, match="has an Optuna study 'a' that paretune did not make: launch this one under"):
        world.launch(world.study("a", ["channels_last"]))
    assert not world.ran
    again = optuna.load_study(study_name="a", storage=world.storage)
    assert [(trial.number, trial.values, trial.user_attrs) for trial in again.get_trials()] == before
    assert not again.user_attrs
    assert len(world.launch(world.study("b", ["channels_last"])).complete) == 2, "another name is free"


def test_a_stranger_that_came_while_the_reference_was_measured_is_refused(world: World) -> None:
    def come(job: Any, kind: str) -> None:
        if kind == "floor" and len(world.ran) == 2:
            strangers(world.storage, "a", ["minimize"] * 3)

    world.before = come
    with pytest.raises(UserError, match="that paretune did not make"):
        world.launch(world.study("a", ["channels_last"]))
    assert len(optuna.load_study(study_name="a", storage=world.storage).get_trials()) == 1


def test_a_launch_that_was_killed_before_the_objectives_were_named_is_continued(world: World) -> None:
    study = world.study("a", ["channels_last"])
    world.launch(study, trials=1)
    optuna.delete_study(study_name="a", storage=world.storage)
    optuna.create_study(study_name="a", storage=world.storage, directions=["minimize"] * 3)
    assert len(world.launch(study).complete) == 2


def newer(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("update alembic_version set version_num = 'v9.9.0.a'")
    connection.close()


def test_tables_of_a_newer_optuna_are_one_sentence(world: World) -> None:
    strangers(world.storage, "theirs", ["minimize"])
    newer(world.folder / "paretune.db")
    with pytest.raises(UserError, match=r"^Optuna's tables in sqlite:\S+ are of another version of Optuna: .*upda"):
        world.launch(world.study("a", ["channels_last"]))
    assert not world.ran


def test_the_dashboard_says_so_too_and_shows_its_own_pages(tmp_path: Path) -> None:
    pytest.importorskip("a2wsgi", reason="the dashboard extra is not installed")
    from support.served import served

    replay(tmp_path)
    strangers(url_of(tmp_path), "theirs", ["minimize"])
    newer(tmp_path / "paretune.db")
    with served(url_of(tmp_path), tmp_path) as visitor:
        said = visitor.get("/dashboard/")
        assert said.status == 503
        assert "are of another version of Optuna" in said.text
        assert NAME in visitor.get("/").text


def test_a_file_of_another_program_where_optunas_tables_should_be(tmp_path: Path, cli: Cli) -> None:
    with sqlite3.connect(tmp_path / "theirs.db") as connection:
        connection.execute("create table studies (a text)")
        connection.execute("create table version_info (b text)")
    connection.close()
    content = {"schema": 1, "name": "a", "workload": {"pipelines": {"main": {"class": "X", "model": "a/b"}}}}
    content["workload"]["requests"] = [{"prompt": "a", "width_px": 64, "height_px": 64, "steps": 2}]  # type: ignore[index]
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
    said = cli("launch", str(tmp_path / "a.yaml"), "--storage", f"sqlite:///{tmp_path}/theirs.db")
    assert "Optuna's tables in" in said.sentence()

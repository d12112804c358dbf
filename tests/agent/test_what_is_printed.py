"""At the program's exits: what a command prints holds no secret, and what it says to type can be typed."""

import json
import shlex

import pytest
from paretune.agent.output import MaskedConsole, print_error, say
from paretune.agent.progress import LaunchProgress
from paretune.agent.search import Event
from paretune.studies import UserError
from support.launched import Cli
from support.replayed_cli import ReplayedCli

SECRET = "postgresql://ann:s3cret@db/x"


@pytest.fixture
def launch(study: ReplayedCli, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A launch that has just ended as the replayed study did."""
    monkeypatch.setattr("paretune.agent.search.launch", lambda *_, **__: study.results)
    return lambda *arguments: cli("launch", "quickstart", *arguments)


def following(out: str) -> list[list[str]]:
    """The commands of the line "Next: ...", as a shell splits them."""
    (line,) = [line for line in out.splitlines() if line.startswith("Next: ")]
    return [shlex.split(command) for command in line.removeprefix("Next: ").split("; ")]


def test_next_leaves_out_what_the_environment_gives(launch: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_STORAGE", SECRET)
    said = launch()
    assert "s3cret" not in said.out + said.err
    assert following(said.out) == [
        ["paretune", "report", "replayed"],
        ["paretune", "export", "replayed", "-o", "bundle"],
    ]


def test_next_can_be_typed_and_has_no_password(launch: Cli) -> None:
    storage = "sqlite:////home/ann/my $tudies/it's.db"
    assert following(launch("--storage", storage).out)[0] == ["paretune", "report", "replayed", "--storage", storage]
    said = launch("--storage", SECRET)
    assert "s3cret" not in said.out + said.err
    assert following(said.out)[1][-1] == "postgresql://ann:***@db/x"


@pytest.mark.parametrize("error", [UserError, RuntimeError])
def test_no_error_shows_a_password(error: type[Exception], launch: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error(f"{SECRET} failed\nand HF_TOKEN=s3cret")

    monkeypatch.setattr("paretune.agent.search.launch", fails)
    said = launch()
    assert said.code == (2 if error is UserError else 1)
    assert "s3cret" not in said.out + said.err
    assert "postgresql://ann:***@db/x" in said.err


def test_no_text_from_elsewhere_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """A device's name in a bundle, a failure's reason: terminals obey what is in them."""
    hostile = "\x1b[2J\x1b]0;owned\x07GPU\rThe bundle passes.\x9b31m"
    say(hostile)
    print_error("warning", hostile)
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not set(text) & {"\x1b", "\x07", "\r", "\x9b"}
        assert "\\x1b[2J" in text


def test_neither_progress_nor_json_shows_a_password(study: ReplayedCli, capsys: pytest.CaptureFixture[str]) -> None:
    with LaunchProgress(MaskedConsole()) as progress:
        for kind in ("note", "server", "result", "step"):
            progress.show(Event(kind=kind, text=f"{kind}: {SECRET}", done=1, total=2))
    said = capsys.readouterr()
    assert "note: postgresql://ann:***@db/x" in said.out
    assert "s3cret" not in said.out + said.err


def test_what_was_stored_before_is_starred_when_it_is_shown(study: ReplayedCli) -> None:
    study.results.numbered[5].timing.reason = f"apply: {SECRET}"
    study.results.numbered[5].timing.log_tail = "HF_TOKEN=s3cret"
    shown = json.dumps([study.results.numbered[5].reason, study.results.numbered[5].log_tail])
    assert shown == '["apply: postgresql://ann:***@db/x", "HF_TOKEN=***"]'

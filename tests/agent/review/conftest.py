"""A recorded study, and the dashboard that serves it to somebody who has opened it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.replayed import ask_optuna, replay, url_of

if TYPE_CHECKING:
    from support.served import Visitor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    replay(folder)
    ask_optuna(folder)
    return folder


@pytest.fixture(scope="module")
def visitor(folder: Path) -> "Iterator[Visitor]":
    from support.served import served  # needs the dashboard extra

    with served(url_of(folder), folder) as visitor:
        visitor.open("/")
        yield visitor

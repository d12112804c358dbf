"""The ways out to a terminal: whatever is printed there has stars for what is secret."""

import json
import shlex
import sys
import traceback
from typing import Any

from rich.console import Console
from rich.markup import escape

from ..studies import plain_without_secrets, without_secrets

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class MaskedConsole(Console):
    """A console that shows no passwords, tokens or keys, also above a progress bar, and obeys no text: what bundles,
    databases and other programs have written cannot move the cursor or clear the screen.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """As `Console.print`; texts are masked before they are marked up and wrapped."""
        super().print(*(printable(one) if isinstance(one, str) else one for one in objects), **options)


def printable(text: str) -> str:
    """A text as a terminal may show it."""
    return without_secrets(text).translate(_CONTROLS)


def say(text: str) -> None:
    """Text as it is, its lines whole whatever the terminal's width."""
    MaskedConsole().print(text, soft_wrap=True, markup=False, highlight=False)


def print_error(kind: str, text: str) -> None:
    """One line on stderr: "error: ..." or "warning: ..."."""
    colour = "red" if kind == "error" else "yellow"
    line = " ".join(text.splitlines())
    MaskedConsole(stderr=True).print(f"[{colour}]{kind}:[/{colour}] {escape(line)}", soft_wrap=True, highlight=False)


def print_mistake() -> None:
    """The traceback of the exception that is being handled, on stderr."""
    sys.stderr.write(printable(traceback.format_exc()))


def print_json(data: Any) -> None:
    """Plain data on stdout."""
    sys.stdout.write(json.dumps(plain_without_secrets(data), indent=1, ensure_ascii=False, default=str) + "\n")


def shell_line(*words: str) -> str:
    """A command that can be pasted into a shell."""
    return shlex.join(without_secrets(word) for word in words)

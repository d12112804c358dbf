"""What people write about themselves and their choices: text, with nothing in it that could pass for something else."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints


def plain_text(text: str) -> str:
    """Lines of text. Raises ValueError for signs that nobody sees, which databases refuse or that turn text round."""
    if not all(sign.isprintable() or sign in "\n\r\t" for sign in text):
        raise ValueError("it has signs that cannot be seen")
    return text


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it has signs that cannot be seen")
    return text


Person = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80), AfterValidator(_line)]
"""The name of who rates or chooses."""

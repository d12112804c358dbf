"""Write the tables of docs/study-file.md from the schema of study files: python benchmarks/study_file_reference.py

What stands above the marker in that file is written by hand and stays; what stands below it is written anew. The words
are the docstrings in studies/_sections.py and studies/_study.py.
"""

import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import annotated_types
from paretune.studies import Study
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

PAGE = Path(__file__).parents[1] / "docs" / "study-file.md"
MARKER = "<!-- Below: make docs. The words are the docstrings in studies/_sections.py and studies/_study.py. -->"
SIMPLE = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`", type(None): "", Any: ""}
PLURALS = {"text": "texts", "mapping": "mappings", "list": "lists", "number": "numbers", "name": "names"}


def page() -> str:
    """The whole page, with its lower part as the schema is now."""
    by_hand, _, _ = PAGE.read_text(encoding="utf-8").partition(MARKER)
    return by_hand + MARKER + "\n\n" + "\n\n".join(chapters()) + "\n"


def chapters() -> Iterator[str]:
    """One chapter per section of a study file, each with a table of its keys, in the order of the schema."""
    for path, section in sections("", Study):
        heading = "## Keys of the file" if not path else f"### `{path}`"
        words = [] if not path else [textwrap.fill(_one_line(inspect.getdoc(section) or ""), 120)]
        rows = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
        rows += [_row(path, name, field) for name, field in section.model_fields.items()]
        yield "\n\n".join([heading, *words, "\n".join(rows)])


def sections(path: str, section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """(path, class) of a section and of those inside it. A list's items are "[]", a mapping's values "NAME"."""
    yield path, section
    for name, field in section.model_fields.items():
        inner, suffix = _section_in(field.annotation)
        if inner is not None:
            yield from sections(_joined(path, _key(name, field) + suffix), inner)


def _row(path: str, name: str, field: FieldInfo) -> str:
    inner, suffix = _section_in(field.annotation)
    key = _key(name, field)
    value = value_words(field) if inner is None else _link(_joined(path, key + suffix), suffix)
    cells = [f"`{key}`", value, _default(field, inner), _one_line(field.description or "")]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def value_words(field: FieldInfo) -> str:
    """What may be written as a field's value, in words: "whole number, at least 1"."""
    # That a text is not empty goes without saying, and upper bounds are there for what was mistyped.
    limits = [limit for limit in field.metadata if field.annotation is not str]
    return ", ".join([_type_words(field.annotation, field.metadata), *_bounds(limits)])


def _type_words(annotation: Any, metadata: typing.Sequence[Any] = ()) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_words(arguments[0], _flat(arguments[1:]))
    if origin in (typing.Union, types.UnionType):
        return next(_type_words(argument) for argument in arguments if argument is not type(None))
    if origin is Literal:
        return _alternatives([f"`{value}`" for value in arguments])
    if origin is list:
        return f"list of {_plural(_type_words(arguments[0]))}"
    if origin in (dict, Mapping):
        keys, values = (_type_words(argument) for argument in arguments)
        words = f"mapping of {_plural(values)}" if values and values != "mapping" else "mapping"
        return f"{words}, with keys of {keys}" if typing.get_origin(arguments[0]) is Literal else words
    is_name = annotation is str and any(getattr(limit, "pattern", None) for limit in metadata)
    return "name" if is_name else SIMPLE[annotation]


def _plural(words: str) -> str:
    first, space, rest = words.partition(" ")
    return PLURALS[first] + space + rest if first in PLURALS else words


def _flat(metadata: typing.Sequence[Any]) -> list[Any]:
    return [limit for entry in metadata for limit in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]


def _bounds(metadata: typing.Sequence[Any]) -> Iterator[str]:
    for limit in metadata:
        if isinstance(limit, annotated_types.Ge):
            yield f"at least {limit.ge}"
        elif isinstance(limit, annotated_types.Gt):
            yield f"above {limit.gt}"
        elif isinstance(limit, annotated_types.MultipleOf):
            yield f"a multiple of {limit.multiple_of}"
        elif isinstance(limit, annotated_types.MinLen):
            yield "at least one" if limit.min_length == 1 else f"at least {limit.min_length}"


def _default(field: FieldInfo, inner: type[BaseModel] | None) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if inner is not None:
        return ""
    if value is None or value in ({}, [], ""):
        return "none"
    if isinstance(value, list):
        return "`[" + ", ".join(map(str, value)) + "]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _section_in(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The section that a field holds, and how its path goes on: "" directly, "[]" in a list, ".NAME" in a mapping."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation, ""
    suffix = {list: "[]", dict: ".NAME"}.get(typing.get_origin(annotation), "")
    for argument in typing.get_args(annotation):
        inner, further = _section_in(argument)
        if inner is not None:
            return inner, suffix + further
    return None, ""


def _link(path: str, suffix: str) -> str:
    kind = {"": "section", "[]": "list of sections", ".NAME": "mapping of sections"}[suffix]
    anchor = "".join(letter for letter in path.lower() if letter.isalnum() or letter == "_")
    return f"[{kind}](#{anchor})"


def _key(name: str, field: FieldInfo) -> str:
    return field.alias or name


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _alternatives(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

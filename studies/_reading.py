"""Reads YAML and JSON that somebody else wrote: bounded before it is read, without duplicate keys, never run."""

import json
from pathlib import Path
from typing import Any

import yaml

MOST_KIB = 512
"""Of a study file; the longest of real ones has a few thousand."""
MOST_STORED_CHARACTERS = 1 << 26
"""Of one JSON value in the database: a trial's measurements, every picture's metrics among them."""
MOST_DEPTH = 32
"""Of mappings and lists inside each other."""
MOST_VALUES = 100_000
"""In one file, with every alias written out."""


class UnreadableError(ValueError):
    """Why a text cannot be read, as the end of a sentence: "is not YAML: ..."."""


def read_yaml_file(file: Path) -> Any:
    """The content of a YAML file. Raises UnreadableError."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_KIB * 1024 + 1)
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from None
    if len(content) > MOST_KIB * 1024:
        raise UnreadableError(f"is larger than {MOST_KIB} KiB, which no study file is")
    try:
        return read_yaml(content.decode())
    except UnicodeDecodeError as error:
        raise UnreadableError(f"is not YAML: it is not UTF-8 ({error.reason})") from None


def read_yaml(text: str) -> Any:
    """The value of a YAML text: plain data. Raises UnreadableError."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UnreadableError(f"is not YAML: {' '.join(str(error).split())}") from None
    except UnreadableError:
        raise
    except (ValueError, OverflowError) as error:  # a number of 5,000 digits, the 31st of February
        raise UnreadableError(f"has a value that cannot be read: {error}") from None


def read_json(text: str) -> Any:
    """The value of a JSON text: plain data, numbers finite. Raises UnreadableError."""
    if len(text) > MOST_STORED_CHARACTERS:
        raise UnreadableError(f"is longer than {MOST_STORED_CHARACTERS >> 20} million characters")
    try:
        value = json.loads(text, parse_constant=_no_number, object_pairs_hook=_mapping)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise UnreadableError("is nested too deeply") from None
    except UnreadableError:
        raise
    except (TypeError, ValueError) as error:
        raise UnreadableError(f"is not JSON: {error}") from None
    return value


class _Loader(yaml.SafeLoader):
    """PyYAML's, which lets nesting, aliases, tags and duplicate keys pass."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise UnreadableError(f"is nested more than {MOST_DEPTH} deep")
        tag = getattr(self.peek_event(), "tag", None)  # type: ignore[no-untyped-call]
        if tag not in (None, "!"):
            raise UnreadableError(f"has the tag {tag[:60]!r}: its values need none")
        composed = super().compose_node(parent, index)
        self._depth -= 1
        return composed

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _check(node, {})
        return node


def _check(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """How many values a node stands for and how deep it is, aliases written out; what is known of nodes by their id."""
    if id(node) in known:
        before = known[id(node)]
        if before is None:
            raise UnreadableError("has an alias inside of what it stands for")
        return before
    known[id(node)] = None
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.ScalarNode):
        _check_text(node)
    elif isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UnreadableError(f"has a list or a mapping as a key in line {key.start_mark.line + 1}")
            if (key.tag, key.value) in keys:
                raise UnreadableError(f"has the key {key.value[:60]!r} twice, again in line {key.start_mark.line + 1}")
            keys.add((key.tag, key.value))
            inner += (key, value)
    else:
        inner = list(node.value)
    found = [_check(one, known) for one in inner]
    values, depth = 1 + sum(count for count, _ in found), 1 + max((deep for _, deep in found), default=0)
    if values > MOST_VALUES:
        raise UnreadableError(f"has more than {MOST_VALUES:,} values once its aliases are written out")
    if depth > MOST_DEPTH:
        raise UnreadableError(f"is nested more than {MOST_DEPTH} deep once its aliases are written out")
    known[id(node)] = values, depth
    return values, depth


def _check_text(node: yaml.ScalarNode) -> None:
    """Databases and files cannot hold these."""
    if "\0" in node.value or any("\ud800" <= letter <= "\udfff" for letter in node.value):
        line = node.start_mark.line + 1
        raise UnreadableError(f"has a character in line {line} that no text can hold (NUL, or half of a pair)")


def _no_number(text: str) -> None:
    raise UnreadableError(f"is not JSON: {text} is no number")


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UnreadableError("has a key twice")
    return found

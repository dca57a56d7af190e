"""Strict YAML and JSON: without repeated keys, and without words that are silently read as something else."""

import json
import re
from functools import cache
from typing import Any

import yaml

from m2mkd.errors import InputError

QUIRKS = [
    (re.compile(r"(?i:yes|no|on|off)"), "write true or false, or put it in quotes"),
    (re.compile(r"[-+]?\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?"), "put it in quotes, because YAML 1.1 reads it as a number to the base 60"),
    (re.compile(r"[-+]?0\d[\d_]*"), "remove the leading zeros, or put it in quotes, because YAML 1.1 reads it as an octal number"),
    (re.compile(r"[-+]?(0b[01_]+|0x[\da-fA-F_]+)"), "write it as a decimal number, or put it in quotes"),
    (re.compile(r"[-+]?\d[\d_]*_[\d_]*(\.[\d_]*)?([eE][-+]?\d+)?"), "remove the underscores, or put it in quotes"),
    (re.compile(r"="), "put it in quotes"),
]
"""Plain words that YAML 1.1 reads differently from people or later versions, and the fix for each."""
EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")
"""Numbers that YAML 1.1 reads as text unless they have a dot and a sign."""
LARGEST_YAML = 1 << 18
"""Size limit in bytes; a real configuration file has a tenth of it."""
LARGEST_JSON = 1 << 26
"""Size limit in bytes; the manifest of a prepared set of a thousand classes has a thousandth of it."""
MOST_VALUES, DEEPEST = 50_000, 50
"""Limits of a YAML text: number of values, aliases expanded, and depth of nesting."""
PARSERS_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Errors that parsers and converters raise about a text, besides their own."""


class _Loader(yaml.SafeLoader):
    """Loader of YAML that refuses a key repeated in one mapping; by the standard the last one would win silently."""

    ours = False

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here and not when the mapping is built, because by then merge keys (<<) have brought in theirs.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is a list or a mapping; put it in quotes", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' occurs twice; remove one", key.start_mark)
            seen.add(key.value)
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if self.ours and node.style is None and node.tag != "tag:yaml.org,2002:merge":
            for pattern, fix in QUIRKS:
                if pattern.fullmatch(node.value):
                    raise yaml.constructor.ConstructorError(None, None, f"{node.value} can be read in two ways; {fix}", node.start_mark)
            if EXPONENT.fullmatch(node.value):
                node.tag = "tag:yaml.org,2002:float"
        return node

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        # Two escapes of JSON encode one character beyond the first 65,536.
        return _whole(value) if isinstance(value, str) else value


class _StrictLoader(_Loader):
    """Loader for the project's own files, which also refuses plain words that can be read in two ways."""

    ours = True


def _whole(text: str) -> str:
    """Replace pairs of surrogates in a text with the characters that they encode.

    Raises
    ------
    ValueError
        If there is one without the other, such as from an argument that is not UTF-8.
    """
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise ValueError(f"{text!r} has an incomplete character; write it in UTF-8") from None


@cache
def parse_yaml(text: str, where: str, *, ours: bool = True) -> Any:
    """Parse YAML into plain values, which must not be changed: the same text is parsed only once.

    Parameters
    ----------
    text, where
        The text, and the name of its place.
    ours
        True for the project's own formats; words that can be read in two ways are then refused.

    Raises
    ------
    InputError
        If it is not YAML, has a key twice or a word that can be read in two ways, or is larger or deeper than any configuration.
    """
    if len(text) > LARGEST_YAML:
        raise InputError(f"{where}: is larger than {LARGEST_YAML} characters; a configuration is shorter")
    try:
        loader = (_StrictLoader if ours else _Loader)(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _values(node, {}, 1)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not valid YAML: {error}") from error
    except RecursionError:
        raise InputError(f"{where}: not valid YAML: it is nested too deep") from None
    except PARSERS_ERRORS as error:
        raise InputError(f"{where}: not valid YAML: {error}") from None


def _values(node: yaml.Node, known: dict[yaml.Node, int], depth: int) -> int:
    """Number of values of a node, each counted as often as an alias repeats it."""
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} deep, or within itself")
    if node not in known:
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        known[node] = 1 + sum(_values(part, known, depth + 1) for part in parts)
        if known[node] > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES} values, including those that its aliases repeat")
    return known[node]


def parse_json(text: str | bytes, where: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InputError
        If it is not a JSON object, is not UTF-8, has a name twice, or is larger than any file of this suite.
    """
    if len(text) > LARGEST_JSON:
        raise InputError(f"{where}: is larger than {LARGEST_JSON} bytes; no file of this suite is")
    try:
        content = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=_once)
    except RecursionError:
        raise InputError(f"{where}: not valid JSON: it is nested too deep") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not valid JSON: byte {error.start} is not UTF-8") from None
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: holds a {type(content).__name__}, but an object is needed")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"the name '{name}' occurs twice; remove one")
        content[name] = value
    return content

"""YAML that people write, read without the ways in which a parser can take the process down."""

import itertools
from collections.abc import Iterable

import yaml

_DEEPEST = 1_000
"""libyaml's composer recurses in C: some 30,000 open brackets end the process, not just the parse."""
_MOST_NODES = 1_000_000
"""Aliases let a few lines stand for more than any memory holds."""


class YamlTextError(ValueError):
    """The text is no YAML that we read; the message says what and, where known, in which line."""


def parse_yaml(text: str, *, loader: type[yaml.SafeLoader] | None = None) -> object:
    """What `text` holds: dictionaries, lists, strings, numbers. Raises YamlTextError, and nothing else.

    Args:
        loader: a safe loader of the caller's own.
    """
    opened = itertools.accumulate(1 if c in "[{" else -1 for c in text if c in "[]{}")
    if max(opened, default=0) > _DEEPEST:
        raise YamlTextError(f"more than {_DEEPEST:,} brackets are open at once")
    try:
        reader = (loader or yaml.SafeLoader)(text)
        node = reader.get_single_node()
        if node is None:
            return None
        if "*" in text:
            _refuse_endless(node)
        return reader.construct_document(node)
    except YamlTextError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise YamlTextError(f"{where}no valid YAML: {error.problem}") from error
    except RecursionError as error:
        raise YamlTextError("it is nested too deeply") from error
    # Constructors of dates, numbers and tags let their own errors out.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise YamlTextError(f"no valid YAML: {error or type(error).__name__}") from error


def _refuse_endless(root: yaml.Node) -> None:
    """Raises YamlTextError: with its aliases written out, the text is very long or has no end."""
    n_nodes: dict[yaml.Node, int | None] = {}

    def unfolded(node: yaml.Node) -> int:
        if node not in n_nodes:
            n_nodes[node] = None
            n_nodes[node] = 1 + sum(map(unfolded, _within(node)))
        found = n_nodes[node]
        if found is None:
            raise YamlTextError("an alias (*) stands within what it stands for")
        if found > _MOST_NODES:
            raise YamlTextError(f"its aliases (*) stand for more than {_MOST_NODES:,} values")
        return found

    unfolded(root)


def _within(node: yaml.Node) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return itertools.chain.from_iterable(node.value)
    return node.value if isinstance(node, yaml.SequenceNode) else ()

"""YAML that people write, read without the ways in which a parser can take the process down."""

import itertools

import yaml

_DEEPEST = 1_000
"""libyaml's composer recurses in C: some 30,000 open brackets end the process, not just the parse."""


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
        return yaml.load(text, Loader=loader or yaml.SafeLoader)  # noqa: S506  # the caller's is safe too
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise YamlTextError(f"{where}no valid YAML: {error.problem}") from error
    except RecursionError as error:
        raise YamlTextError("it is nested too deeply") from error
    # Constructors of dates, numbers and tags let their own errors out.
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise YamlTextError(f"no valid YAML: {error or type(error).__name__}") from error

"""YAML as distribution reads it, and what is wrong with it in words with a place."""

import re
from typing import Any

import yaml
from typing_extensions import override


class NotYAML(Exception):
    """The text is not YAML, or says something twice; the message has the line."""


def parse_yaml(text: str) -> Any:
    """Read a document; every scalar but null stays a string.

    Raises:
        NotYAML: It cannot be read.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 -- it is a SafeLoader
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise NotYAML(f"{where}{error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise NotYAML(" ".join(str(error).split())) from error


class _Loader(yaml.SafeLoader):
    """Leaves every scalar but null a string: its type is decided by the key, as in distribution."""

    @override
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"{key.value!r} is there a second time"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return node


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])

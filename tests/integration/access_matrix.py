"""The table of who may do what: read, and shown as Markdown.

``python -m tests.integration.access_matrix`` writes it into the registry's manual again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data/access_matrix.yaml"
PAGE = ROOT / "registry/ACCESS.md"

_INTRODUCTION = """\
# What the registry answers

Who asks (rows) for what (columns), for each mode of `auth`. The table is made from
`tests/data/access_matrix.yaml` by `python -m tests.integration.access_matrix`, and every cell of
it is asked of a running server by `tests/integration/test_access_matrix.py`. How to set a mode up
is in [README.md](README.md), "Who may do what".
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One column.

    Args:
        name: Its title.
        method: HTTP's.
        path: With places for the repository and digests.
        statuses: By answer: `ok`, `other`.
        scope: What a challenge asks for, with a place for the repository; empty for nothing.
    """

    name: str
    method: str
    path: str
    statuses: Mapping[str, int]
    scope: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row: somebody, and what they are answered."""

    who: str
    repository: str
    credentials: Mapping[str, Any]
    answers: Sequence[str]


@dataclass(frozen=True, slots=True)
class Mode:
    """The table of one mode."""

    name: str
    title: str
    requests: Sequence[Request]
    rows: Sequence[Row]

    def cells(self) -> Iterator[tuple[Row, Request, str]]:
        """Yield every cell with its row and column."""
        for row in self.rows:
            for request, answer in zip(self.requests, row.answers, strict=True):
                yield row, request, answer


def load() -> dict[str, Mode]:
    """Read the file."""
    content = yaml.safe_load(DATA.read_text())
    requests = {
        name: Request(name, found["method"], found["path"], {**found}, found.get("scope", ""))
        for name, found in content["requests"].items()
    }
    return {
        name: Mode(
            name,
            mode["title"],
            [requests[request] for request in mode["requests"]],
            [
                Row(
                    row["who"],
                    row.get("repository", mode["repository"]),
                    row.get("credentials", {}),
                    row["answers"],
                )
                for row in mode["rows"]
            ],
        )
        for name, mode in content["modes"].items()
    }


def render() -> str:
    """Return the page."""
    content = yaml.safe_load(DATA.read_text())
    lines = [_INTRODUCTION, "| cell | answer |", "|---|---|"]
    lines += [f"| {name} | {text} |" for name, text in content["answers"].items()]
    lines += ["", "| column | request | done | scope of the challenge |", "|---|---|---|---|"]
    for name, found in content["requests"].items():
        statuses = " or ".join(str(found[key]) for key in ("ok", "other") if key in found)
        scope = f"`{found['scope']}`" if "scope" in found else ""
        lines.append(f"| {name} | `{found['method']} {found['path']}` | {statuses} | {scope} |")
    for mode in load().values():
        lines += ["", f"## {mode.title}", ""]
        lines.append("| who | " + " | ".join(request.name for request in mode.requests) + " |")
        lines.append("|---" * (len(mode.requests) + 1) + "|")
        lines += [f"| {row.who} | {' | '.join(row.answers)} |" for row in mode.rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render())

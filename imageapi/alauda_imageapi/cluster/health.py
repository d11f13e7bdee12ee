"""``/healthz``, ``/livez`` and ``/readyz``, as Kubernetes' own programs have them.

Anybody may ask, also when nobody can be asked who may. What is wrong is in the log, and its name in
the answer.
"""

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus

from starlette.responses import PlainTextResponse, Response

logger = logging.getLogger(__name__)

Check = Callable[[], str]
"""Returns what is wrong; nothing when all is well."""

PATHS = ("healthz", "livez", "readyz")


class Health:
    """Answers probes.

    Args:
        checks: What has to be well to serve, by name.
    """

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = dict(checks)
        self._told: dict[str, str] = {}
        self.is_ending = False
        """Whether the server is about to stop: it serves still, and wants no more."""

    def answer(self, path: str, part: str, *, is_verbose: bool) -> Response | None:
        """Return the answer to a probe; None when there is no such check.

        Args:
            path: Which probe: ``readyz``.
            part: A single check of it; empty for all.
            is_verbose: Whether each check is listed.
        """
        checks: dict[str, Check] = {"ping": lambda: ""}
        if path != "livez":
            # Restarting does not help against anything that is checked here.
            checks |= self._checks
        if path == "readyz":
            checks["shutdown"] = lambda: "the server is stopping" if self.is_ending else ""
        if part:
            if part not in checks:
                return None
            checks = {part: checks[part]}
        failed = self._failed(checks)
        lines = [
            f"[-]{name} failed: reason withheld" if name in failed else f"[+]{name} ok"
            for name in checks
        ]
        if failed:
            lines.append(f"{path} check failed")
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            return PlainTextResponse("\n".join([*lines, ""]), status, _NO_SNIFFING)
        if not is_verbose:
            return PlainTextResponse("ok", headers=_NO_SNIFFING)
        shown = "\n".join([*lines, f"{path} check passed", ""])
        return PlainTextResponse(shown, headers=_NO_SNIFFING)

    def _failed(self, checks: Mapping[str, Check]) -> set[str]:
        troubles = {name: trouble for name, check in checks.items() if (trouble := check())}
        for name, trouble in troubles.items():
            if self._told.get(name) != trouble:
                logger.warning("not ready: %s: %s", name, trouble)
        for name in checks.keys() - troubles.keys():
            self._told.pop(name, None)
        self._told |= troubles
        return set(troubles)


_NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}

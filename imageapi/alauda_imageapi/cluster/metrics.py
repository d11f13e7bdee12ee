"""What is counted, under the names that kube-apiserver has for it."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from alauda_imageapi.kinds.names import GROUP
from alauda_imageapi.machinery.resources import Resource
from alauda_registry.kube.client import Attributes, ResourceAttributes

_SECONDS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2, 3, 5, 10, 30, 60)
_LABELS = ("verb", "group", "version", "resource", "subresource", "scope")
_VERBS = frozenset(
    {
        *("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"),
        *("post", "put", "head"),
    }
)
_METHODS = {"create": "post", "update": "put"}
"""Verbs that kube-apiserver counts under the names of their methods."""


class Metrics:
    """Counts requests.

    Args:
        resources: Those that there are. Others count as none, or anybody could make us remember
            any name.
    """

    def __init__(self, resources: Iterable[Resource]) -> None:
        self._parts = {
            resource.name: frozenset(["", *(part.name for part in resource.subresources)])
            for resource in resources
        }
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "apiserver_request_total",
            "Requests that were answered.",
            (*_LABELS, "code"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "apiserver_request_duration_seconds",
            "How long answers took, but those of watches.",
            _LABELS,
            buckets=_SECONDS,
            registry=self._registry,
        )
        in_flight = Gauge(
            "apiserver_current_inflight_requests",
            "Requests that are being answered, but watches.",
            ("request_kind",),
            registry=self._registry,
        )
        self._reading = in_flight.labels("readOnly")
        self._mutating = in_flight.labels("mutating")
        self._watches = Gauge(
            "apiserver_longrunning_requests",
            "Watches that are being served.",
            _LABELS,
            registry=self._registry,
        )

    def labels(self, attributes: Attributes) -> tuple[str, ...]:
        """Return what a request is counted under."""
        verb = attributes.verb if attributes.verb in _VERBS else "other"
        said = _METHODS.get(verb, verb).upper()
        if not isinstance(attributes, ResourceAttributes) or attributes.group != GROUP.name:
            return said, "", "", "", "", ""
        resource, part = attributes.resource, attributes.subresource
        if part not in self._parts.get(resource, ()):
            return said, GROUP.name, "", "", "", ""
        scope = "namespace" if attributes.namespace else "cluster"
        if attributes.name or verb == "create":
            scope = "resource"
        return said, GROUP.name, GROUP.version, resource, part, scope

    def answered(self, labels: tuple[str, ...], code: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(*labels, str(code)).inc()
        if labels[0] != "WATCH":
            self._seconds.labels(*labels).observe(seconds)

    def show_running(self, reading: int, mutating: int) -> None:
        """Say how many requests are being answered."""
        self._reading.set(reading)
        self._mutating.set(mutating)

    def watch(self, labels: tuple[str, ...], change: int) -> None:
        """Count a watch that begins, or ends."""
        self._watches.labels(*labels).inc(change)

    def render(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)

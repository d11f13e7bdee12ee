"""Keys of distribution's and OpenShift's configuration that we know and do not act on.

None may be passed over in silence when that would change what the registry does: who is let in,
where the bytes go, who is told. Those stop the process; what merely has no effect here warns; what
we satisfy anyway (a cache that cannot be stale needs no configuration) is quiet.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto


class Severity(Enum):
    """What happens when the key is found."""

    FATAL = auto()
    WARN = auto()
    QUIET = auto()


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A known key without effect."""

    severity: Severity
    why: str = ""


def _fatal(why: str) -> Unsupported:
    return Unsupported(Severity.FATAL, why)


def _warn(why: str) -> Unsupported:
    return Unsupported(Severity.WARN, why)


_QUIET = Unsupported(Severity.QUIET)
DRIVER_UNSUPPORTED = _fatal(
    "this storage driver is not supported yet; use storage.filesystem, storage.pvc or storage.s3"
)
MODE_UNSUPPORTED = _fatal(
    "it lets in whoever sends any credentials; use auth.htpasswd, auth.token or auth.none"
)
_CHECK = _warn("this check is not supported yet; /readyz checks storage only")
_CLUSTER = _warn("it has an effect in a cluster only, which is not supported yet")

UNSUPPORTED: Mapping[str, Unsupported] = {
    "auth.silly": MODE_UNSUPPORTED,
    "health.file": _CHECK,
    "health.http": _CHECK,
    "health.tcp": _CHECK,
    "http.debug": _warn("there is no separate address; /metrics is on the main one"),
    "http.h2c": _warn("HTTP/1.1 is what is spoken"),
    "http.http2": _QUIET,
    "http.net": _fatal("only tcp is supported"),
    "http.tls.letsencrypt": _fatal(
        "certificates are not fetched yet; let certbot or another program write "
        "http.tls.certificate and http.tls.key, which are re-read when they change"
    ),
    "log.hooks": _warn("log hooks are not supported; ship the log from standard error"),
    "log.reportcaller": _QUIET,
    "middleware": _fatal("middleware is not supported"),
    "notifications.endpoints": _fatal("notifications are not supported yet; remove the endpoints"),
    "notifications.events": _QUIET,
    "openshift.audit": _fatal("the audit log is not supported yet; set enabled to false"),
    "openshift.auth": _CLUSTER,
    "openshift.cache": _QUIET,
    "openshift.compatibility": _QUIET,
    "openshift.kubeconfig": _CLUSTER,
    "openshift.metrics.enabled": _QUIET,
    "openshift.metrics.secret": _fatal(
        "/metrics cannot be protected yet; remove the secret and keep others off by the network"
    ),
    "openshift.pullthrough": _CLUSTER,
    "openshift.quota": _fatal("quotas are not supported yet; set enabled to false"),
    "openshift.server": _CLUSTER,
    "openshift.version": _QUIET,
    "policy": _fatal("repository classes are not supported; remove the section"),
    "proxy": _fatal("proxy mode is not supported yet; remove the section"),
    "redis": _warn("nothing is cached in Redis"),
    "storage.azure": DRIVER_UNSUPPORTED,
    "storage.cache": _QUIET,
    "storage.filesystem.maxthreads": _QUIET,
    "storage.gcs": DRIVER_UNSUPPORTED,
    "storage.maintenance.uploadpurging.dryrun": _fatal("set uploadpurging.enabled to false"),
    "storage.oss": DRIVER_UNSUPPORTED,
    "storage.s3.loglevel": _QUIET,
    "storage.s3.multipartcopychunksize": _QUIET,
    "storage.s3.multipartcopythresholdsize": _QUIET,
    "storage.s3.usefipsendpoint": _fatal(
        "give the FIPS endpoint of the region in storage.s3.regionendpoint instead"
    ),
    "storage.swift": DRIVER_UNSUPPORTED,
    "storage.tag": _QUIET,
    "validation.disabled": _QUIET,
    "validation.enabled": _QUIET,
    "validation.manifests.indexes": _warn("members of an index may always be missing"),
    "validation.manifests.urls": _fatal(
        "the URLs of foreign layers cannot be restricted yet; remove allow and deny"
    ),
}


def has_effect(value: object) -> bool:
    """Whether the value asks for anything: ``{enabled: false}`` and ``auth: none`` do not."""
    match value:
        case None | "" | "false" | "none" | "tcp" | False:
            return False
        case dict() if str(value.get("enabled", "true")).lower() == "false":
            return False
        case dict() if str(value.get("disabled", "false")).lower() == "true":
            return False
        case dict() if value.keys() == {"none"}:
            return False
        case dict():
            return any(has_effect(child) for child in value.values())
        case list():
            return any(has_effect(child) for child in value)
        case _:
            return True

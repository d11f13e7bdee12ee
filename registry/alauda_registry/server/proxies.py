"""Where a request comes from, and the address the client used for us.

Behind a proxy both are in ``Forwarded`` (RFC 7239) or ``X-Forwarded-*``. Whoever may be believed is
configured (``http.trustedproxies``): anybody can send these fields, and would get tokens sent to a
host of theirs, or hide behind the addresses of others.
"""

import ipaddress
import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from starlette.types import Scope

logger = logging.getLogger(__name__)

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST_HOPS = 20
"""Proxies on the way that are looked at, the nearest ones. Anybody can write thousands."""

_LONGEST_HOP = 1024
"""Characters that one of them may say."""

_QUIET_SECONDS = 600.0
"""How long nothing more is said of contradictions: clients can make as many as they like."""

_USUAL_PORTS = {"http": ":80", "https": ":443"}

_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_PAIR = re.compile(r'\s*([a-z]+)\s*=\s*(?:"([^"\\]*)"|([^\s;,"]*))\s*', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Origin:
    """How the client sees us and we see the client.

    Args:
        url: Scheme and host that the client used, without a slash at the end.
        address: The client's own, as far as it can be told.
    """

    url: str
    address: str


class Contradictions:
    """Tells the log now and then that two kinds of fields differ, which nobody sees otherwise.

    Args:
        clock: Seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quiet_until: dict[str, float] = {}

    def look(self, peer: str, **said: set[str]) -> None:
        """Look for them in what a proxy says, whatever it is about."""
        differing = [what for what, values in said.items() if len(values) > 1]
        if not differing:
            return
        now = self._clock()
        if all(now < self._quiet_until.get(what, now) for what in differing):
            return
        self._quiet_until |= dict.fromkeys(differing, now + _QUIET_SECONDS)
        logger.warning(
            "Forwarded and X-Forwarded-* that come from %s differ in the %s, so neither counts: "
            "let the proxy write the same in both, or remove the one that it does not write; for "
            "scheme and host http.host will do, the URL that clients use",
            peer,
            " and the ".join(differing),
        )


@dataclass(frozen=True, slots=True)
class Proxies:
    """Knows which proxies to believe.

    Args:
        networks: Their addresses.
        contradictions: Told what they say.
    """

    networks: tuple[Network, ...] = ()
    contradictions: Contradictions = field(
        default_factory=Contradictions, compare=False, repr=False
    )

    def origin(self, scope: Scope) -> Origin:
        """Return how client and server see each other in a request."""
        peer = peer_address(scope)
        host, scheme = _header(scope, b"host"), str(scope["scheme"])
        if not self.are_before(scope):
            return Origin(_url(scheme, host, scope), peer)
        ways = self._ways(scope, peer)
        # Proxies write one kind, or the same in both. Where they differ the client has written the
        # other one, and could otherwise have whatever it likes: what the connection says holds.
        schemes = {way.scheme for way in ways if way.scheme}
        scheme = _only(schemes, scheme)
        # Of a host that they leave as it is they say nothing.
        hosts = {(way.host or host).removesuffix(_USUAL_PORTS[scheme]) for way in ways}
        addresses = {way.address for way in ways}
        self.contradictions.look(peer, client=addresses, scheme=schemes, host=hosts)
        return Origin(_url(scheme, _only(hosts, host), scope), _only(addresses, peer))

    def _ways(self, scope: Scope, peer: str) -> list["_Hop"]:
        """Return what each kind of fields says, of those that are there."""
        kinds = (_forwarded_hops(scope), _x_forwarded_hops(scope))
        return [self._follow(hops, peer) for hops in kinds if hops]

    def _follow(self, hops: Sequence["_Hop"], peer: str) -> "_Hop":
        """Return address, host and scheme as the outermost proxy of ours has seen them."""
        address, host, scheme = peer, "", ""
        # The last hop that a proxy of ours has written about: whoever is before it may have lied.
        for hop in reversed(hops):
            if hop.scheme in ("http", "https"):
                scheme = hop.scheme
            if hop.host and _HOST.fullmatch(hop.host):
                host = hop.host
            if not hop.address:
                break
            address = hop.address
            if not self._trusts(address):
                break
        return _Hop(address, host, scheme)

    def address(self, scope: Scope) -> str:
        """Return the client's address."""
        peer = peer_address(scope)
        if not self.are_before(scope):
            return peer
        addresses = {way.address for way in self._ways(scope, peer)}
        self.contradictions.look(peer, client=addresses)
        return _only(addresses, peer)

    def are_before(self, scope: Scope) -> bool:
        """Tell whether one of them holds the other end of the connection."""
        return bool(self.networks) and self._trusts(peer_address(scope))

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self.networks)


def peer_address(scope: Scope) -> str:
    """Return the address of whoever holds the other end of the connection."""
    client = scope.get("client")
    # An IPv4 client on the socket for both families.
    return str(client[0]).removeprefix("::ffff:") if client else ""


@dataclass(frozen=True, slots=True)
class _Hop:
    """What one proxy says about the request as it came in there."""

    address: str = ""
    host: str = ""
    scheme: str = ""


def _forwarded_hops(scope: Scope) -> list[_Hop]:
    """The proxies on the way that have written ``Forwarded``, the nearest last."""
    forwarded = _header(scope, b"forwarded")
    return [_forwarded(element) for element in _nearest(forwarded)] if forwarded else []


def _x_forwarded_hops(scope: Scope) -> list[_Hop]:
    """Those that have written ``X-Forwarded-*``."""
    words = (word.strip() for word in _nearest(_header(scope, b"x-forwarded-for")))
    addresses = [_plain(word) for word in words if word]
    # These two have one value, or one for each hop; the last is that of the nearest proxy, and is
    # what it was asked for only if it is the outermost, which is how they are used.
    host = _first(_header(scope, b"x-forwarded-host"))
    scheme = _first(_header(scope, b"x-forwarded-proto")).lower()
    if not (addresses or host or scheme):
        return []
    *others, nearest = addresses or [""]
    return [*(_Hop(address) for address in others), _Hop(nearest, host, scheme)]


def _forwarded(element: str) -> _Hop:
    values: dict[str, str] = {}
    if len(element) > _LONGEST_HOP:
        return _Hop()
    for pair in element.split(";"):
        if found := _PAIR.fullmatch(pair):
            values[found[1].lower()] = found[2] if found[2] is not None else found[3]
    return _Hop(_plain(values.get("for", "")), values.get("host", ""), values.get("proto", ""))


def _plain(address: str) -> str:
    """An address without brackets and port; empty if it is none."""
    address = address.strip()
    if address.startswith("["):
        address = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        address = address.partition(":")[0]
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    # As proxies write IPv4 clients that came to a socket for both families.
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def _nearest(value: str) -> list[str]:
    """The last elements of a list, each of which one proxy has added."""
    return value.rsplit(",", MOST_HOPS)[-MOST_HOPS:]


def _first(value: str) -> str:
    return value.lstrip(" \t,").partition(",")[0].strip()


def _header(scope: Scope, wanted: bytes) -> str:
    """All fields of a name as one value, as a list is meant (RFC 9110, section 5.2)."""
    found: Iterable[bytes] = (value for name, value in scope["headers"] if name == wanted)
    return b",".join(found).decode("latin-1")


def _only(said: set[str], otherwise: str) -> str:
    """Return what all say; something else where they differ, or there are none."""
    return next(iter(said)) if len(said) == 1 else otherwise


def _url(scheme: str, host: str, scope: Scope) -> str:
    if not _HOST.fullmatch(host):
        server = scope.get("server") or ("localhost", None)
        host = f"[{server[0]}]" if ":" in str(server[0]) else str(server[0])
        host += f":{server[1]}" if server[1] else ""
    return f"{scheme}://{host}"

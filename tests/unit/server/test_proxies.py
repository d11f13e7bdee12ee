"""Where clients come from, and who is believed about it."""

import ipaddress
from typing import Any

import pytest

from alauda_registry.server.proxies import MOST_HOPS, Contradictions, Origin, Proxies

PROXIES = Proxies((ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32")))


def scope(peer: str, scheme: str = "http", **headers: str) -> dict[str, Any]:
    fields = [
        (name.replace("_", "-").encode(), text.encode())
        for name, text in {"host": "inner:5000", **headers}.items()
    ]
    return {
        "type": "http",
        "scheme": scheme,
        "client": (peer, 1),
        "server": ("192.0.2.200", 5000),
        "headers": fields,
    }


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ({}, Origin("http://inner:5000", "10.0.0.1")),
        (
            {"x_forwarded_for": "203.0.113.9", "x_forwarded_proto": "https"},
            Origin("https://inner:5000", "203.0.113.9"),
        ),
        (
            {
                "x_forwarded_for": "203.0.113.9, 10.9.9.9",
                "x_forwarded_host": "registry.example",
                "x_forwarded_proto": "HTTPS",
            },
            Origin("https://registry.example", "203.0.113.9"),
        ),
        # What the client itself has written is not believed.
        ({"x_forwarded_for": "1.1.1.1, 203.0.113.9"}, Origin("http://inner:5000", "203.0.113.9")),
        ({"x_forwarded_for": "nonsense"}, Origin("http://inner:5000", "10.0.0.1")),
        ({"x_forwarded_for": "203.0.113.9:4711"}, Origin("http://inner:5000", "203.0.113.9")),
        ({"x_forwarded_for": "[2001:db9::1]:4711"}, Origin("http://inner:5000", "2001:db9::1")),
        ({"x_forwarded_host": 'evil"\r\nx'}, Origin("http://inner:5000", "10.0.0.1")),
        ({"x_forwarded_proto": "javascript"}, Origin("http://inner:5000", "10.0.0.1")),
        (
            {"forwarded": 'for="[2001:db9::1]:4711";proto=https;host=registry.example:8443'},
            Origin("https://registry.example:8443", "2001:db9::1"),
        ),
        (
            {"forwarded": "for=203.0.113.9;proto=https;host=a.example,for=10.2.2.2;host=b.ex"},
            Origin("https://a.example", "203.0.113.9"),
        ),
        (
            {"forwarded": "for=1.1.1.1;host=evil.example, for=203.0.113.9;host=b.example"},
            Origin("http://b.example", "203.0.113.9"),
        ),
        ({"forwarded": "for=unknown;host=b.example"}, Origin("http://b.example", "10.0.0.1")),
        ({"forwarded": ";;,=,for"}, Origin("http://inner:5000", "10.0.0.1")),
        # OpenShift's router writes both.
        (
            {
                "forwarded": "for=203.0.113.9;proto=https;host=a.example",
                "x_forwarded_for": "203.0.113.9",
                "x_forwarded_host": "a.example",
                "x_forwarded_proto": "https",
            },
            Origin("https://a.example", "203.0.113.9"),
        ),
        # Most proxies write one kind and pass on what the client has written in the other.
        (
            {"forwarded": "for=1.1.1.1", "x_forwarded_for": "203.0.113.9"},
            Origin("http://inner:5000", "10.0.0.1"),
        ),
        (
            {"forwarded": "for=1.1.1.1", "x_forwarded_proto": "https"},
            Origin("https://inner:5000", "10.0.0.1"),
        ),
        (
            {
                "forwarded": "for=203.0.113.9;host=evil.example;proto=http",
                "x_forwarded_for": "203.0.113.9",
                "x_forwarded_proto": "https",
            },
            Origin("http://inner:5000", "203.0.113.9"),
        ),
        (
            {"forwarded": "host=evil.example", "x_forwarded_proto": "https"},
            Origin("https://inner:5000", "10.0.0.1"),
        ),
        (
            {"forwarded": "host=evil.example", "x_forwarded_host": "a.example"},
            Origin("http://inner:5000", "10.0.0.1"),
        ),
        (
            {"forwarded": "for=203.0.113.9;proto=https", "x_forwarded_host": "evil.example"},
            Origin("https://inner:5000", "10.0.0.1"),
        ),
        # The usual port may be left out.
        (
            {
                "forwarded": "for=203.0.113.9;proto=https;host=a.example",
                "x_forwarded_for": "203.0.113.9",
                "x_forwarded_host": "a.example:443",
            },
            Origin("https://a.example", "203.0.113.9"),
        ),
        (
            {"forwarded": 'host="[2001:db9::1]:80"', "x_forwarded_host": "[2001:db9::1]"},
            Origin("http://[2001:db9::1]", "10.0.0.1"),
        ),
        (
            {
                "forwarded": "proto=https;host=a.example",
                "x_forwarded_host": "a.example:80",
            },
            Origin("https://inner:5000", "10.0.0.1"),
        ),
        # Who writes both names the host in both: it could be the client's word.
        (
            {
                "forwarded": "for=203.0.113.9;proto=https;host=a.example",
                "x_forwarded_for": "203.0.113.9",
            },
            Origin("https://inner:5000", "203.0.113.9"),
        ),
        # Two proxies one behind the other, or one that writes less in one of them.
        (
            {
                "forwarded": "for=203.0.113.9;proto=https;host=inner:5000",
                "x_forwarded_for": "203.0.113.9",
            },
            Origin("https://inner:5000", "203.0.113.9"),
        ),
    ],
)
def test_a_proxy_of_ours_is_believed(headers: dict[str, str], origin: Origin) -> None:
    assert PROXIES.origin(scope("10.0.0.1", **headers)) == origin
    assert PROXIES.address(scope("10.0.0.1", **headers)) == origin.address


def test_nobody_else_is() -> None:
    headers = {
        "x_forwarded_for": "203.0.113.9",
        "x_forwarded_host": "evil.example",
        "x_forwarded_proto": "https",
        "forwarded": "for=203.0.113.9;host=evil.example;proto=https",
    }
    for proxies in (PROXIES, Proxies()):
        origin = proxies.origin(scope("192.0.2.7", **headers))
        assert origin == Origin("http://inner:5000", "192.0.2.7")
        assert proxies.address(scope("192.0.2.7", **headers)) == "192.0.2.7"


@pytest.mark.parametrize("host", ["", "a b", 'x"y', "x/y", "x,y", "user@host", "x?y"])
def test_a_host_that_is_none_becomes_our_address(host: str) -> None:
    assert (
        Proxies().origin(scope("192.0.2.7", "https", host=host)).url == "https://192.0.2.200:5000"
    )


def test_ipv4_clients_are_told_apart_however_proxies_write_them() -> None:
    hops = "::ffff:203.0.113.9, ::ffff:10.0.0.2"

    for headers in ({"x_forwarded_for": hops}, {"forwarded": 'for="[::ffff:203.0.113.9]:80"'}):
        assert PROXIES.origin(scope("10.0.0.1", **headers)).address == "203.0.113.9"


def test_an_ipv4_client_of_an_ipv6_socket_is_one() -> None:
    assert PROXIES.origin(
        scope("::ffff:10.0.0.1", x_forwarded_for="203.0.113.9")
    ).address == "203.0.113.9"  # fmt: skip


@pytest.mark.parametrize(
    "headers",
    [
        {"x_forwarded_for": "1.1.1.1," * 7_000 + "203.0.113.9"},
        {"x_forwarded_for": "," * 60_000 + "203.0.113.9"},
        {"forwarded": "for=1.1.1.1," * 5_000 + "for=203.0.113.9"},
        {"forwarded": "," * 60_000 + "for=203.0.113.9"},
        {"forwarded": "for=1.1.1.1;" * 5_000 + ",for=203.0.113.9"},
    ],
    ids=range(5),
)
def test_of_thousands_of_hops_the_nearest_are_looked_at(
    headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = 0
    parse = ipaddress.ip_address

    def counted(address: str) -> Any:
        nonlocal looked_at
        looked_at += 1
        return parse(address)

    monkeypatch.setattr(ipaddress, "ip_address", counted)

    assert PROXIES.address(scope("10.0.0.1", **headers)) == "203.0.113.9"
    assert looked_at < 2 * MOST_HOPS


def test_a_hop_that_says_more_than_any_proxy_does_says_nothing() -> None:
    said = "for=203.0.113.9;" + "host=b.example;" * 1_000

    assert PROXIES.origin(scope("10.0.0.1", forwarded=said)).url == "http://inner:5000"


def test_contradictions_are_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    proxies = Proxies(PROXIES.networks, Contradictions(lambda: now))
    agreeing = {"forwarded": "proto=https;host=a.example", "x_forwarded_host": "a.example:443"}
    proxies.origin(scope("10.0.0.1", **agreeing))
    assert not caplog.records

    differing = scope("10.0.0.1", **agreeing | {"x_forwarded_host": "b.example"})
    # All that is asked for with http.host.
    proxies.address(differing)
    assert not caplog.records
    for _ in range(3):
        proxies.origin(differing)
    assert "from 10.0.0.1 differ in the host, so neither counts" in caplog.text
    assert "http.host" in caplog.text
    assert len(caplog.records) == 1

    now += 600
    proxies.origin(scope("10.0.0.1", forwarded="for=1.1.1.1;proto=http", x_forwarded_proto="https"))
    assert "differ in the client and the scheme" in caplog.records[-1].message
    assert len(caplog.records) == 2

"""Paths: whatever was put together is taken apart, and nothing else gets through."""

from urllib.parse import unquote_to_bytes

from hypothesis import example, given, strategies as st

from alauda_registry.oci.errors import RegistryError
from alauda_registry.oci.reference import RepositoryName, parse_reference
from alauda_registry.server.routing import Kind, Target, parse_target

words = st.sampled_from(
    ["manifests", "blobs", "uploads", "tags", "list", "referrers", "v2", "a", "b.c", "d__e", "0-1"]
)
names = st.lists(words, min_size=1, max_size=5).map("/".join)
references = st.sampled_from(["latest", "list", "manifests", "1.0", f"sha256:{'0' * 64}"])

ENDPOINTS = {
    Kind.MANIFEST: "/v2/{}/manifests/{}",
    Kind.BLOB: "/v2/{}/blobs/{}",
    Kind.REFERRERS: "/v2/{}/referrers/{}",
    Kind.UPLOAD: "/v2/{}/blobs/uploads/{}",
    Kind.UPLOADS: "/v2/{}/blobs/uploads/",
    Kind.TAGS: "/v2/{}/tags/list",
}


def escape(path: str, escaped: set[int]) -> bytes:
    """Escape some characters that need not be, but leave slashes alone."""
    pieces = (
        f"%{ord(char):02x}" if position in escaped and char != "/" else char
        for position, char in enumerate(path)
    )
    return "".join(pieces).encode()


@given(st.sampled_from(list(ENDPOINTS)), names, references, st.sets(st.integers(4, 60)))
def test_every_name_reaches_every_endpoint(
    kind: Kind, name: str, reference: str, escaped: set[int]
) -> None:
    path = ENDPOINTS[kind].format(name, reference)
    has_reference = ENDPOINTS[kind].count("{}") == 2

    target = parse_target(escape(path, escaped))

    assert target == Target(kind, name, reference if has_reference else "")


TRICKS = b"v2 a .. . %2e%2e %2F %2f..%2f %00 % %zz %ff \xff \0 %0a %25%32%46 %252f \\ A + %C3%BC"
WORDS = b"manifests blobs uploads tags list _catalog referrers latest"
pieces = st.sampled_from([*TRICKS.split(b" "), *WORDS.split(b" "), b"", b"a" * 300])
paths = st.lists(pieces, max_size=8).map(lambda parts: b"/v2/" + b"/".join(parts)) | st.binary()


@given(paths)
@example(b"/v2/a%2Fb/manifests/c")
@example(b"/v2/a\xff/manifests/c")
@example(b"/v2/a/manifests/c%ff")
@example(b"/v2/a/manifests/..%2f..%2fetc")
@example(b"/v2/a/%2e%2e/manifests/c")
def test_what_gets_through_the_grammars_hides_nothing(raw_path: bytes) -> None:
    target = parse_target(raw_path)
    if target is None or target.kind is not Kind.MANIFEST:
        return
    try:
        name = RepositoryName.parse(target.name)
        reference = parse_reference(target.reference)
    except RegistryError:
        return

    # Decoded as often as it takes, the path still has the same segments.
    assert unquote_to_bytes(unquote_to_bytes(raw_path)) == unquote_to_bytes(raw_path)
    assert unquote_to_bytes(raw_path).decode() == f"/v2/{name}/manifests/{reference}"
    assert set(name.split("/")).isdisjoint({"", ".", ".."})

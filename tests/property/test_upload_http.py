"""Drives an upload session over HTTP and a byte string through the same random history."""

from contextlib import ExitStack, nullcontext

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from starlette.testclient import TestClient
from typing_extensions import override

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.server.app import create_app
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.repositories import Registry

chunks = st.binary(max_size=40)
shifts = st.integers(-50, 50).filter(bool)
algorithms = st.sampled_from(Algorithm)


class UploadAgainstByteString(RuleBasedStateMachine):
    """The server may say no, but never lose or invent a byte."""

    def __init__(self) -> None:
        super().__init__()
        registry = Registry(InMemoryDriver())
        app = create_app(lambda: nullcontext(registry))
        self.stack = ExitStack()
        self.client = self.stack.enter_context(TestClient(app))
        self.location = ""
        self.stale: list[str] = []
        self.model = b""

    @override
    def teardown(self) -> None:
        self.stack.close()

    @initialize(algorithm=algorithms | st.none())
    def start(self, algorithm: Algorithm | None) -> None:
        query = f"?digest-algorithm={algorithm}" if algorithm else ""
        answer = self.client.post(f"/v2/a/blobs/uploads/{query}")
        assert answer.status_code == 202
        self.location, self.stale, self.model = answer.headers["Location"], [], b""

    @rule(content=chunks, has_range=st.booleans(), is_streamed=st.booleans())
    def patch(self, content: bytes, has_range: bool, is_streamed: bool) -> None:
        first = len(self.model)
        has_range = has_range and content != b""
        answer = self.client.patch(
            self.location,
            content=iter([content]) if is_streamed else content,
            headers={"Content-Range": f"{first}-{first + len(content) - 1}"} if has_range else {},
        )
        assert answer.status_code == 202
        if content:
            self.stale.append(self.location)
        self.location = answer.headers["Location"]
        self.model += content

    @rule(content=chunks, shift=shifts, method=st.sampled_from(["PATCH", "PUT"]))
    def send_out_of_order(self, content: bytes, shift: int, method: str) -> None:
        first = len(self.model) + shift
        if first < 0 or not content:
            return
        answer = self.client.request(
            method,
            f"{self.location}&digest={Digest.of(self.model + content)}",
            content=content,
            headers={"Content-Range": f"{first}-{first + len(content) - 1}"},
        )
        assert answer.status_code == 416

    @rule(content=chunks.filter(len), surplus=st.sampled_from([-1, 1, 7]))
    def send_another_length(self, content: bytes, surplus: int) -> None:
        first = len(self.model)
        last = first + len(content) - 1 + surplus
        if last < first:
            return
        answer = self.client.patch(
            self.location, content=iter([content]), headers={"Content-Range": f"{first}-{last}"}
        )
        assert answer.status_code == 400

    @precondition(lambda self: self.stale)
    @rule(content=chunks, data=st.data(), method=st.sampled_from(["PATCH", "PUT"]))
    def use_stale_location(self, content: bytes, data: st.DataObject, method: str) -> None:
        stale = data.draw(st.sampled_from(self.stale))
        answer = self.client.request(
            method, f"{stale}&digest={Digest.of(self.model)}", content=content
        )
        assert answer.status_code == 416

    @precondition(lambda self: self.stale)
    @rule(content=chunks.filter(len), data=st.data())
    def use_stale_location_with_the_right_range(self, content: bytes, data: st.DataObject) -> None:
        first = len(self.model)
        answer = self.client.patch(
            data.draw(st.sampled_from(self.stale)),
            content=content,
            headers={"Content-Range": f"{first}-{first + len(content) - 1}"},
        )
        assert answer.status_code == 202
        self.stale.append(self.location)
        self.location = answer.headers["Location"]
        self.model += content

    @rule(content=chunks, algorithm=algorithms)
    def finish(self, content: bytes, algorithm: Algorithm) -> None:
        digest = Digest.of(self.model + content, algorithm)
        answer = self.client.put(f"{self.location}&digest={digest}", content=content)
        assert answer.status_code == 201
        assert self.client.get(answer.headers["Location"]).content == self.model + content
        assert self.client.get(self.location).status_code == 404
        self.start(None)

    @rule(content=chunks)
    def finish_with_another_digest(self, content: bytes) -> None:
        digest = Digest.of(self.model + content + b"!")
        answer = self.client.put(f"{self.location}&digest={digest}", content=content)
        assert answer.status_code == 400
        assert self.client.head(f"/v2/a/blobs/{digest}").status_code == 404
        self.start(None)

    @rule()
    def cancel(self) -> None:
        assert self.client.delete(self.location).status_code == 204
        assert self.client.get(self.location).status_code == 404
        self.start(None)

    @invariant()
    def status_is_what_was_taken(self) -> None:
        answer = self.client.get(self.location)
        assert answer.status_code == 204
        assert answer.headers["Range"] == f"0-{max(len(self.model) - 1, 0)}"


UploadAgainstByteString.TestCase.settings = settings(
    # A history is many requests.
    max_examples=max(25, settings().max_examples // 10),
    stateful_step_count=25,
)
TestUploadAgainstByteString = UploadAgainstByteString.TestCase

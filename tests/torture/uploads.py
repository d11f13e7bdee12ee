"""Uploads that go on after whatever happened to the server, and end right."""

import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.torture.asking import Asker, Outcomes, location_of
from tests.torture.histories import HERE, Claim, Key, Thing
from tests.torture.linearizability import Kind
from tests.torture.talking import Answer


@dataclass(slots=True)
class Upload:
    """An upload that is not finished.

    Attributes:
        sure: How many bytes were acknowledged.
        tried: How many may have arrived.
        is_unclear: Whether the last answer was lost.
        may_be_over: Whether it was an answer to the request that ends the upload.
    """

    repository: str
    digest: str
    content: bytes
    location: str
    sure: int = 0
    tried: int = 0
    is_unclear: bool = False
    may_be_over: bool = False


@dataclass(frozen=True, slots=True)
class Uploads:
    """The uploads of one client.

    What was acknowledged of an upload has to be there whenever it is asked for, and what was under
    way may be. It is gone only if the request that ends it was under way.

    Attributes:
        asker: Asks.
        open: Those that are not finished.
    """

    asker: Asker
    open: list[Upload] = field(default_factory=list)

    def begin(self, repository: str, digest: str, content: bytes) -> None:
        """Begin an upload of a blob."""
        answer = self.asker.change("POST", f"/v2/{repository}/blobs/uploads/", {202: []})
        if answer is not None:
            self.open.append(Upload(repository, digest, content, location_of(answer)))

    def go_on(self) -> None:
        """Do the next step of an upload that was begun."""
        chance = self.asker.chance
        upload = chance.choice(self.open)
        # Some clients go on without asking, and must be told that they are out of step.
        if upload.is_unclear and chance.random() < 0.75:
            self.ask_status(upload)
        elif upload.sure < len(upload.content) and chance.random() < 0.7:
            self.send_piece(upload)
        elif chance.random() < 0.9:
            self._finish(upload)
        else:
            self._cancel(upload)

    def ask_status(self, upload: Upload) -> None:
        """Ask how much has arrived: all that was acknowledged, at least."""
        path = urllib.parse.urlsplit(upload.location).path
        answer = self.asker.change("GET", path, {204: [], 404: []})
        if answer is None:
            return
        if answer.status == 404:
            self._give_up(upload, answer)
            return
        arrived = _arrived_in(answer)
        if not upload.sure <= arrived <= upload.tried:
            self.asker.history.surprised(
                f"{answer}: {upload.sure}..{upload.tried} arrived: {arrived}"
            )
        upload.location = location_of(answer)
        upload.sure = upload.tried = arrived
        upload.is_unclear = upload.may_be_over = False

    def send_piece(self, upload: Upload) -> None:
        """Send the next piece, as long as it comes."""
        size = self.asker.chance.randint(1, max(2, len(upload.content) // 3))
        piece = upload.content[upload.sure : upload.sure + size]
        last = upload.sure + len(piece) - 1
        headers = (
            {"Content-Range": f"{upload.sure}-{last}"} if self.asker.chance.random() < 0.5 else {}
        )
        answer = self._send(upload, "PATCH", upload.location, {202: []}, piece, headers)
        if answer is None:
            return
        upload.sure += len(piece)
        upload.tried = upload.sure
        upload.location = location_of(answer)
        # Our sizes have no piece of one byte at the beginning, which reads like none.
        if _arrived_in(answer) != upload.sure and upload.sure > 1:
            self.asker.history.surprised(f"{answer}: {upload.sure} should have arrived")

    def _finish(self, upload: Upload) -> None:
        rest = upload.content[upload.sure :]
        key = Key(Thing.BLOB, upload.repository, upload.digest)
        location = f"{upload.location}&digest={upload.digest}"
        done = {201: [Claim(key, Kind.WRITE, HERE)]}
        if self._send(upload, "PUT", location, done, rest, {}, ends=True) is not None:
            self.open.remove(upload)

    def _cancel(self, upload: Upload) -> None:
        answer = self._send(upload, "DELETE", upload.location, {204: []}, b"", {}, ends=True)
        if answer is not None:
            self.open.remove(upload)

    def _send(
        self,
        upload: Upload,
        method: str,
        location: str,
        done: Outcomes,
        piece: bytes,
        headers: Mapping[str, str],
        *,
        ends: bool = False,
    ) -> Answer | None:
        """Send a request of an upload; None when it has to be asked for its status."""
        refusals: Outcomes = {416: [], 404: []} if upload.is_unclear else {}
        answer = self.asker.change(method, location, {**done, **refusals}, piece, headers)
        if answer is None:
            upload.is_unclear = True
            upload.may_be_over |= ends
            upload.tried = max(upload.tried, upload.sure + len(piece))
        elif answer.status in done:
            upload.is_unclear = upload.may_be_over = False
            return answer
        elif answer.status == 404:
            self._give_up(upload, answer)
        return None

    def _give_up(self, upload: Upload, answer: Answer) -> None:
        """Take leave of an upload that is not there, which it may be only if it was ended."""
        if not upload.may_be_over:
            self.asker.history.surprised(f"{answer}: {upload.sure} bytes of it were acknowledged")
        self.open.remove(upload)


def _arrived_in(answer: Answer) -> int:
    """Return how many bytes an answer says have arrived; ``0-0`` is none."""
    last = int(answer.headers["range"].rpartition("-")[2])
    return last + 1 if last else 0

"""Clients that push, move, delete, mount and read the same few things at the same time.

A :class:`Client` does one thing at a time and adds what it did and saw to a history. It knows
nothing of how the servers keep their bytes.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.torture.asking import MANIFEST_HEADERS, Asker, location_of
from tests.torture.histories import HERE, Claim, Key, Thing
from tests.torture.images import Image, make_image
from tests.torture.linearizability import Kind
from tests.torture.talking import Answer
from tests.torture.uploads import Uploads
from tests.torture.world import World

_UPLOADS_OPEN = 2


@dataclass
class Client:
    """One client; its methods are called by one thread at a time.

    Attributes:
        number: Which one, for names of its own.
        asker: Asks for it.
        unfinished: The image that it has not pushed yet, and its tag.
    """

    number: int
    world: World
    asker: Asker
    unfinished: tuple[Image, str] | None = None
    _pushed: int = 0

    def __post_init__(self) -> None:
        self.uploads = Uploads(self.asker)
        self.chance = self.asker.chance

    def prepare(self) -> None:
        """Push the blobs that manifests need, which nobody deletes."""
        for name in self.world.repositories:
            for digest, content in self.world.needed().items():
                self.push_blob_whole(name, digest, content)
        # Makes each repository, so that its tags can be listed.
        for name in self.world.repositories:
            tag = self.world.tags[0]
            self.push_manifest(name, self.world.images[0], tag, [tag])

    def act(self) -> None:
        """Do one of the things that clients do.

        Raises:
            NotSent: No server listens.
        """
        actions: Sequence[tuple[int, Callable[[], None]]] = (
            (16, self.move_tag),
            (4, self.push_by_digest),
            (20, self.read_tag),
            (6, self.delete_tag),
            (4, self.delete_manifest),
            (6, self.read_manifest),
            (6, self.list_tags),
            (4, self.list_referrers),
            (6, self.push_blob),
            (12, self.go_on_with_upload),
            (6, self.mount_blob),
            (8, self.read_blob),
            (6, self.delete_blob),
        )
        weights = [weight for weight, _ in actions]
        (chosen,) = self.chance.choices([action for _, action in actions], weights)
        chosen()

    def move_tag(self) -> None:
        name, tag = self._any_tag()
        self.push_manifest(name, self.chance.choice(self.world.images), tag, [tag])

    def push_by_digest(self) -> None:
        """Push by digest: an artifact, or an image with two tags at once."""
        name = self.chance.choice(self.world.repositories)
        if self.chance.random() < 0.6:
            artifact = self.chance.choice(self.world.artifacts)
            self.push_manifest(name, artifact, artifact.digest, [])
            return
        image = self.chance.choice(self.world.images)
        tags = self.chance.sample(self.world.tags, 2)
        query = "&".join(f"tag={tag}" for tag in tags)
        self.push_manifest(name, image, f"{image.digest}?{query}", tags)

    def push_new_image(self) -> None:
        """Push an image that nobody has, blobs first; one that was cut short is pushed again."""
        name = f"new/client-{self.number}"
        if self.unfinished is None:
            self._pushed += 1
            image = make_image(self.chance, layer_size=self.chance.choice([500, 5_000, 500_000]))
            self.unfinished = image, f"v{self._pushed % 5}"
        image, tag = self.unfinished
        for digest, content in image.blobs.items():
            if not self.push_blob_whole(name, digest, content):
                return
        if self.push_manifest(name, image, tag, [tag]):
            self.unfinished = None

    def read_tag(self) -> None:
        name, tag = self._any_tag()
        key = Key(Thing.TAG, name, tag)
        # One that the client has takes another way through the server.
        known = self._any_manifest() if self.chance.random() < 0.3 else None
        self.asker.look_at_manifest(
            name, tag, lambda digest: [Claim(key, Kind.READ, digest)], known
        )

    def read_manifest(self) -> None:
        name = self.chance.choice(self.world.repositories)
        wanted = self._any_manifest()
        key = Key(Thing.MANIFEST, name, wanted)
        self.asker.look_at_manifest(
            name, wanted, lambda digest: [Claim(key, Kind.READ, digest and HERE)]
        )

    def delete_tag(self) -> None:
        name, tag = self._any_tag()
        key = Key(Thing.TAG, name, tag)
        self.asker.change(
            "DELETE",
            f"/v2/{name}/manifests/{tag}",
            {202: [Claim(key, Kind.REMOVE)], 404: [Claim(key, Kind.READ)]},
        )

    def delete_manifest(self) -> None:
        """Delete a manifest, and all tags that point to it."""
        name = self.chance.choice(self.world.repositories)
        digest = self._any_manifest()
        key = Key(Thing.MANIFEST, name, digest)
        tags = [Key(Thing.TAG, name, tag) for tag in self.world.tags]
        self.asker.change(
            "DELETE",
            f"/v2/{name}/manifests/{digest}",
            {
                202: [
                    Claim(key, Kind.REMOVE),
                    *(Claim(tag, Kind.REMOVE_IF, digest) for tag in tags),
                ],
                404: [
                    Claim(key, Kind.READ),
                    *(Claim(tag, Kind.READ_OTHER, digest) for tag in tags),
                ],
            },
        )

    def list_tags(self) -> None:
        name = self.chance.choice(self.world.repositories)
        answer = self.asker.look(f"/v2/{name}/tags/list")
        if answer is None:
            return
        listed = set(json.loads(answer.content)["tags"] or [])
        keys = [Key(Thing.TAG, name, tag) for tag in self.world.tags]
        self._tell_apart(answer, keys, listed)

    def list_referrers(self) -> None:
        name = self.chance.choice(self.world.repositories)
        subject = self.world.subject.digest
        answer = self.asker.look(f"/v2/{name}/referrers/{subject}")
        if answer is None:
            return
        listed = {entry["digest"] for entry in json.loads(answer.content)["manifests"]}
        keys = [Key(Thing.MANIFEST, name, one.digest) for one in self.world.artifacts]
        self._tell_apart(answer, keys, listed)

    def push_blob(self) -> None:
        name, digest = self._any_blob()
        self.push_blob_whole(name, digest, self.world.blobs[digest])

    def mount_blob(self) -> None:
        digest = self.chance.choice(list(self.world.blobs))
        source, name = self.chance.sample(self.world.blob_repositories, 2)
        answer = self.asker.change(
            "POST",
            f"/v2/{name}/blobs/uploads/?mount={digest}&from={source}",
            {
                201: [
                    Claim(Key(Thing.BLOB, name, digest), Kind.WRITE, HERE),
                    Claim(Key(Thing.BLOB, source, digest), Kind.READ_SOME),
                ],
                202: [],
            },
        )
        if answer is not None and answer.status == 202:
            self.asker.change("DELETE", location_of(answer), {204: []})

    def read_blob(self) -> None:
        name, digest = self._any_blob()
        self.asker.look_at_blob(name, digest)

    def delete_blob(self) -> None:
        name, digest = self._any_blob()
        key = Key(Thing.BLOB, name, digest)
        self.asker.change(
            "DELETE",
            f"/v2/{name}/blobs/{digest}",
            {202: [Claim(key, Kind.REMOVE)], 404: [Claim(key, Kind.READ)]},
        )

    def push_manifest(self, name: str, image: Image, reference: str, tags: Sequence[str]) -> bool:
        """Push a manifest, and tell whether that was acknowledged.

        Args:
            name: The repository.
            image: What is pushed.
            reference: The last part of the path, with its query.
            tags: The tags that it lets point to the manifest.
        """
        answer = self.asker.change(
            "PUT",
            f"/v2/{name}/manifests/{reference}",
            {
                201: [
                    Claim(Key(Thing.MANIFEST, name, image.digest), Kind.WRITE, HERE),
                    *(Claim(Key(Thing.TAG, name, tag), Kind.WRITE, image.digest) for tag in tags),
                ]
            },
            image.manifest,
            MANIFEST_HEADERS,
        )
        return answer is not None

    def push_blob_whole(self, name: str, digest: str, content: bytes) -> bool:
        """Push a blob in one request, or in two, and tell whether that was acknowledged."""
        done = {201: [Claim(Key(Thing.BLOB, name, digest), Kind.WRITE, HERE)]}
        path = f"/v2/{name}/blobs/uploads/"
        if self.chance.random() < 0.5:
            answer = self.asker.change("POST", f"{path}?digest={digest}", done, content)
            return answer is not None
        begun = self.asker.change("POST", path, {202: []})
        if begun is None:
            return False
        ended = self.asker.change("PUT", f"{location_of(begun)}&digest={digest}", done, content)
        return ended is not None

    def go_on_with_upload(self) -> None:
        """Begin an upload, or do the next step of one that was begun."""
        if len(self.uploads.open) < _UPLOADS_OPEN:
            name, digest = self._any_blob()
            self.uploads.begin(name, digest, self.world.blobs[digest])
        else:
            self.uploads.go_on()

    def _tell_apart(self, answer: Answer, keys: Sequence[Key], listed: set[str]) -> None:
        """Add which of the keys a list has, and which it has not."""
        missing = [Claim(key, Kind.READ) for key in keys if key.name not in listed]
        self.asker.history.answered(answer, missing)
        self.asker.history.listed(answer, [key for key in keys if key.name in listed])

    def _any_tag(self) -> tuple[str, str]:
        return self.chance.choice(self.world.repositories), self.chance.choice(self.world.tags)

    def _any_manifest(self) -> str:
        return self.chance.choice((*self.world.images, *self.world.artifacts)).digest

    def _any_blob(self) -> tuple[str, str]:
        name = self.chance.choice(self.world.blob_repositories)
        digests = list(self.world.blobs)
        # The large ones less often.
        weights = [1 / len(content) ** 0.5 for content in self.world.blobs.values()]
        return name, self.chance.choices(digests, weights)[0]

"""Listing tags, whole and in pages (end-8a, end-8b)."""

import httpx

from conformance.oci import expect
from conformance.oci.check import MUST, SHOULD, check
from conformance.oci.registry import Repository

SECTION = "Listing Tags"

TAGS = ["0.1.2", "0.1.2-rc", "0.1.20", "1", "1.0", "10", "2", "a", "a-b", "a.b", "a_b", "ab", "b"]
"""Names that are prefixes of one another, in an order common to both of the specification."""


@check(SECTION, MUST)
def list_tags(repository: Repository) -> None:
    """The list answers 200 with the name of the repository and all of its tags."""
    repository.push_image("latest")
    answer = repository.ask("GET", "tags/list")

    expect.status(answer, 200)
    told = expect.json_object(answer)
    expect.that(
        told == {"name": repository.name, "tags": ["latest"]},
        f"{expect.describe(answer)}, expected the name and the tag that was pushed",
    )


@check(SECTION, MUST)
def list_tags_in_order(repository: Repository) -> None:
    """Tags come in alphanumeric or in ASCII order."""
    push_tags(repository, ["b", "B", "a", "A", "c", "_", "1"])

    tags = expect.strings(repository.ask("GET", "tags/list"), "tags")

    expect.that(
        tags == sorted(tags)
        or [tag.lower() for tag in tags] == sorted(tag.lower() for tag in tags),
        f"tags in neither order: {tags}",
    )
    expect.that(len(tags) == 7, f"seven tags were pushed, listed are {tags}")


@check(SECTION, MUST)
def list_tags_some(repository: Repository) -> None:
    """With n the list holds the first n tags; fewer only with a Link to the others."""
    push_tags(repository, TAGS)

    for count in (1, 2, 5):
        answer = repository.ask("GET", f"tags/list?n={count}")
        expect.status(answer, 200)
        tags = expect.strings(answer, "tags")
        expect.that(
            tags == TAGS[:count]
            or (tags == TAGS[: len(tags)] and len(tags) < count and "Link" in answer.headers),
            f"{expect.describe(answer)}, expected the first {count} of {TAGS}",
        )


@check(SECTION, MUST)
def list_tags_more_than_there_are(repository: Repository) -> None:
    """With n larger than the number of tags the list holds all of them."""
    push_tags(repository, TAGS)

    expect.that(
        follow(repository, f"tags/list?n={len(TAGS) + 10}") == TAGS,
        f"n={len(TAGS) + 10} doesn't lead to all of {TAGS}",
    )


@check(SECTION, MUST)
def list_tags_none(repository: Repository) -> None:
    """With n=0 the list is empty and has no Link."""
    push_tags(repository, TAGS[:2])

    answer = repository.ask("GET", "tags/list?n=0")

    expect.status(answer, 200)
    expect.that(expect.strings(answer, "tags") == [], f"{expect.describe(answer)}, expected none")
    expect.no_header(answer, "Link")


@check(SECTION, MUST)
def list_tags_after(repository: Repository) -> None:
    """With n and last the list holds up to n tags after last, which isn't among them."""
    push_tags(repository, TAGS)

    for position, last in enumerate(TAGS):
        expected = TAGS[position + 1 : position + 4]
        tags = expect.strings(repository.ask("GET", f"tags/list?n=3&last={last}"), "tags")
        expect.that(tags == expected, f"n=3&last={last} lists {tags}, expected {expected}")


@check(SECTION, MUST)
def list_tags_after_without_n(repository: Repository) -> None:
    """With last alone the list holds all tags after it."""
    push_tags(repository, TAGS)

    for position, last in enumerate(TAGS):
        tags = follow(repository, f"tags/list?last={last}")
        expect.that(
            tags == TAGS[position + 1 :],
            f"last={last} lists {tags}, expected {TAGS[position + 1 :]}",
        )


@check(SECTION, MUST)
def list_tags_page_by_page(repository: Repository) -> None:
    """The pages that Link leads to hold every tag once, in order; the Link is one of rel next."""
    push_tags(repository, TAGS)
    if "Link" not in repository.ask("GET", "tags/list?n=4").headers:
        raise expect.NotSupported("pages have no Link")

    for count in (1, 3, 4):
        tags = follow(repository, f"tags/list?n={count}")
        expect.that(tags == TAGS, f"pages of {count} hold {tags}, expected {TAGS}")


@check(SECTION, SHOULD)
def list_tags_of_an_unknown_repository(repository: Repository) -> None:
    """The list of a repository that was never pushed to answers 404, or 200 and nothing."""
    answer = repository.ask("GET", "tags/list")

    expect.status(answer, 404, 200)
    if answer.status_code == httpx.codes.OK:
        expect.that(not expect.json_object(answer).get("tags"), f"{expect.describe(answer)}")


@check(SECTION, MUST)
def list_tags_of_a_repository_without_any(repository: Repository) -> None:
    """The list of a repository that has a manifest and no tag answers 200 and nothing."""
    repository.push_image()

    answer = repository.ask("GET", "tags/list")

    expect.status(answer, 200)
    expect.that(not expect.json_object(answer).get("tags"), f"{expect.describe(answer)}")


def push_tags(repository: Repository, tags: list[str]) -> None:
    """Push one image with many tags, not in their order."""
    image = repository.make_image()
    for tag in sorted(tags, key=lambda tag: tag[::-1]):
        repository.push_manifest(image, tag)


def follow(repository: Repository, tail: str) -> list[str]:
    """Return the tags of a page and of all that its Link leads to."""
    answer = repository.ask("GET", tail)
    tags: list[str] = []
    for _ in range(100):
        expect.status(answer, 200)
        tags += expect.strings(answer, "tags")
        following = expect.next_page(answer)
        if following is None:
            return tags
        answer = repository.registry.request("GET", following)
    raise expect.Failed(f"the pages after {tail} never end")

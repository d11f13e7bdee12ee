"""Names: which repository, and which manifest in it.

Both kinds of name are ``str`` subclasses, so that they go into paths and answers as they
are, while a type checker still refuses plain text where a checked name is asked for.
Parsing happens in every request on whatever a client sends: the expressions cannot
back-track, and the length is looked at first. Grammar: distribution specification,
"Pulling manifests".
"""

import re
from typing import Self, TypeAlias

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import NameInvalid, TagInvalid

LONGEST_NAME = 255
"""Characters of a repository name, all components and slashes together."""


class RepositoryName(str):
    """The name of a repository, such as ``team/app``. Made by :meth:`parse`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a repository name.

        Raises:
            NameInvalid: The text breaks the grammar or is too long.
        """
        if len(text) > LONGEST_NAME:
            raise NameInvalid(
                f"invalid repository name: {len(text)} characters, use at most {LONGEST_NAME}",
                name=text,
            )
        if _NAME.fullmatch(text) is None:
            raise NameInvalid(name=text)
        return cls(text)


class Tag(str):
    """A tag, such as ``1.4-alpine``. Made by :meth:`parse`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a tag.

        Raises:
            TagInvalid: The text breaks the grammar or is too long.
        """
        if _TAG.fullmatch(text) is None:
            raise TagInvalid(tag=text)
        return cls(text)


def is_tag(text: str) -> bool:
    """Tell tags from what else there may be in their place, such as files of other programs."""
    return _TAG.fullmatch(text) is not None


Reference: TypeAlias = Tag | Digest
"""What names a manifest in a URL."""


def parse_reference(text: str) -> Reference:
    """Read what names a manifest: a digest if it contains a colon, otherwise a tag.

    Raises:
        DigestInvalid: The text contains a colon and is no supported digest.
        TagInvalid: The text contains no colon and is no tag.
    """
    return Digest.parse(text) if ":" in text else Tag.parse(text)


def tag_schema(digest: Digest) -> Tag:
    """Return the tag under which clients without the referrers API list a subject's referrers."""
    text = f"{digest.algorithm.value[:32]}-{digest.encoded[:64]}"
    return Tag(_NOT_IN_TAGS.sub("-", text))


_COMPONENT = r"[a-z0-9]++(?:(?:\.|__?|-++)[a-z0-9]++)*+"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*+")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_NOT_IN_TAGS = re.compile(r"[^a-zA-Z0-9._-]")

"""What can go wrong between us and a Kubernetes API server, whatever library we ask it with.

* KubeError
  x Unreachable       no answer, or none that makes sense: away, overloaded, broken
    x StorageFull             etcd behind it has no room: nothing is made or changed
  x Forbidden         it does not let *us* ask: our own credentials or rights are missing
    x NamespaceTerminating    nothing is made in a namespace that is ending
  x NotServed         it does not know such a kind of object, or not yet
  x NotFound          there is no such object
  x AlreadyExists     there is one
  x Conflict          it is not what we took it for
  x Expired           it does not know any more what we ask about
  x TooLarge          the object is larger than it takes
  x Rejected          it takes what we sent for wrong, or a policy forbids it

Never raised for what an API server says about somebody else: that is an answer. Messages name the
server's own words, never a token, a header or a body that was sent. The library's exception is the
cause.
"""


class KubeError(Exception):
    """The API server did not answer what we asked."""

    is_repeated = False
    """Whether it was asked twice, as the first answer did not come: it may have done it then."""


class Unreachable(KubeError):
    """It could not be asked, or was not able to answer; later it may be."""


class StorageFull(Unreachable):
    """etcd behind it has no room (500): it is read from, and nothing is made or changed."""


class Forbidden(KubeError):
    """It does not know us (401), or does not allow us to ask (403)."""


class NamespaceTerminating(Forbidden):
    """Nothing is made in a namespace that is ending (403)."""


class NotServed(KubeError):
    """It does not know such a kind of object, or not yet (404)."""


class NotFound(KubeError):
    """There is no such object (404).

    Args:
        message: The server's.
        resource: What it is of that is not there, in the plural: when something is made in a
            namespace that is not there, ``namespaces``.
    """

    def __init__(self, message: str, resource: str) -> None:
        super().__init__(message)
        self.resource = resource


class AlreadyExists(KubeError):
    """There is such an object (409)."""


class Conflict(KubeError):
    """The object is at another revision, or is another one (409)."""


class Expired(KubeError):
    """A revision, or the rest of a list, is not known any more (410)."""


class TooLarge(KubeError):
    """The object is larger than the API server (413), or etcd behind it, takes."""


class Rejected(KubeError):
    """What was sent is wrong, or a policy forbids it (another 4xx)."""

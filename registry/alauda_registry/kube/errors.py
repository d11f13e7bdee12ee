"""What can go wrong between us and a Kubernetes API server, whatever library we ask it with.

* KubeError
  x Unreachable       no answer, or none that makes sense: away, overloaded, broken
  x Forbidden         it does not let *us* ask: our own credentials or rights are missing

Never raised for what an API server says about somebody else: that is an answer. Messages name the
server's own words, never a token, a header or a body that was sent. The library's exception is the
cause.
"""


class KubeError(Exception):
    """The API server did not answer what we asked."""


class Unreachable(KubeError):
    """It could not be asked, or was not able to answer; later it may be."""


class Forbidden(KubeError):
    """It does not know us (401), or does not allow us to ask (403)."""

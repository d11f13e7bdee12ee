"""Whether somebody may, by SubjectAccessReview (facts/apiserver.md 1.6).

kube-apiserver has asked the same before it passed a request on, but whoever reaches this server
directly has not been asked, so everything is asked again. Answers are good for two seconds. When
nobody can be asked, nobody is let in.
"""

import logging

from alauda_imageapi.kinds.names import GROUP
from alauda_imageapi.machinery.errors import ServiceUnavailable, StatusError
from alauda_imageapi.machinery.request_info import refusal
from alauda_imageapi.machinery.resources import Access
from alauda_registry.auth.recent import Recent
from alauda_registry.kube import errors as kube_errors
from alauda_registry.kube.client import (
    MASTERS,
    Attributes,
    KubeClient,
    ResourceAttributes,
    UserInfo,
)

logger = logging.getLogger(__name__)

REVIEW_SECONDS = 2.0
REVIEWS_KEPT = 8192

_LONGEST_KEPT = 10_000
"""Characters of a question; longer ones are asked anew each time, so that nobody fills memory."""


class Authorization:
    """Says whether somebody may do something.

    Args:
        client: Asks the API server.
    """

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._reviews: Recent[tuple[UserInfo, Attributes], bool] = Recent(
            REVIEW_SECONDS, REVIEWS_KEPT
        )

    async def require(self, user: UserInfo, attributes: Attributes) -> None:
        """Let somebody do something.

        Raises:
            Forbidden: They must not.
            ServiceUnavailable: Whoever knows cannot be asked.
        """
        # As in kube-apiserver, where no role can take anything away from them.
        if MASTERS in user.groups:
            return
        if not await self._allows(user, attributes):
            raise refusal(user.username, attributes)

    async def allows(self, user: UserInfo, access: Access) -> bool:
        """Tell whether somebody may do something to our own kinds.

        Raises:
            ServiceUnavailable: Whoever knows cannot be asked.
        """
        if MASTERS in user.groups:
            return True
        attributes = ResourceAttributes(
            access.verb,
            GROUP.name,
            access.resource,
            access.subresource,
            access.namespace,
            access.name,
            GROUP.version,
        )
        return await self._allows(user, attributes)

    async def _allows(self, user: UserInfo, attributes: Attributes) -> bool:
        async def ask() -> bool:
            return await self._client.review_access(user, attributes)

        try:
            if len(repr((user, attributes))) > _LONGEST_KEPT:
                return await ask()
            return await self._reviews.get((user, attributes), ask)
        except kube_errors.Forbidden as error:
            logger.error(  # noqa: TRY400,RUF100 -- the reason is enough
                "nobody is let in: %s: give this server's account the ClusterRole "
                "system:auth-delegator",
                error,
            )
            raise _unknown() from error
        except kube_errors.KubeError as error:
            logger.warning("nobody is let in: %s", error)
            raise _unknown() from error


def _unknown() -> StatusError:
    return ServiceUnavailable(
        "the Kubernetes API server does not answer who may do this: try again in a moment",
        details={"retryAfterSeconds": 1},
    )

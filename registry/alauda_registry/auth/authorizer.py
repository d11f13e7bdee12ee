"""Whether somebody may do something.

Every mode has one :class:`Authorizer`. It is asked with every request, so that taking a permission
away has an effect before tokens expire, and by the token service for what a token is to allow.
"""

import math
from typing import Protocol

from typing_extensions import override

from alauda_registry.auth.authenticator import Identity
from alauda_registry.auth.scopes import Access


class Authorizer(Protocol):
    """Says whether."""

    async def allows(self, identity: Identity, access: Access) -> bool:
        """Tell whether somebody may do this; nobody in particular is asked about like others.

        Raises:
            NameInvalid: The mode has no place for a repository of this name.
            AuthorityUnavailable: Whoever knows cannot be reached.
        """
        ...

    def known_until(self, identity: Identity, access: Access) -> float:
        """Return when what :meth:`allows` has just said has to be asked again.

        In seconds of the monotonic clock.
        """
        ...


class TokenDecides(Authorizer):
    """Leaves it to the token: whatever it allows, and nothing without one."""

    @override
    async def allows(self, identity: Identity, access: Access) -> bool:
        """Say yes; the gate has compared the token."""
        return True

    @override
    def known_until(self, identity: Identity, access: Access) -> float:
        return math.inf

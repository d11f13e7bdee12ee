"""The one place where a request is let in or not.

Who is asking is one question and what they may is another. A known user who may not is told so
(403 DENIED). Everybody else is sent to log in, or to ask for a token that allows more (401).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from alauda_registry.auth.authenticator import NOBODY, Authenticator, Caller, Credentials
from alauda_registry.auth.authorizer import Authorizer
from alauda_registry.auth.scopes import Access
from alauda_registry.oci.errors import Denied, NameInvalid, Unauthorized


def insufficient_scope(missing: Sequence[Access]) -> Unauthorized:
    """Return what sends somebody for a token that allows this as well."""
    return Unauthorized(
        "the token does not allow this: ask for one with the scope that is named",
        error="insufficient_scope",
        needed=[access.detail() for access in missing],
    )


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets in.

    Args:
        authenticator: Says who.
        authorizer: Says whether.
        admits_strangers: Whether somebody without credentials is asked about at all. With tokens of
            somebody else's they are not: there is nobody who would know, and neither is it known
            there what somebody may beyond what a token says.
        takes_certificates: Whether a client certificate says who somebody is.
        tells_denied: Whether a known user who may not hears so (403), or is asked to log in (401)
            like everybody else, as OpenShift's registry does it.
    """

    authenticator: Authenticator
    authorizer: Authorizer
    admits_strangers: bool = True
    takes_certificates: bool = False
    tells_denied: bool = True

    async def identify(self, credentials: Credentials | None, address: str) -> Caller:
        """Return who is asking.

        Raises:
            Unauthorized: What they show is not good.
            TooManyRequests: Too many guesses.
            AuthorityUnavailable: Nobody can tell at the moment.
        """
        if credentials is None:
            return NOBODY
        return await self.authenticator.authenticate(credentials, address)

    async def admit(
        self, credentials: Credentials | None, address: str, needed: Sequence[Access]
    ) -> Caller:
        """Return who is asking, if they may do all of this; nothing needs good credentials only.

        Whoever shows the same may do the same until the moment that is in the answer.

        Raises:
            Denied: They are known, and may not.
            NameInvalid: The mode has no place for a repository of this name.
            Unauthorized: They have to log in, or need another token.
            TooManyRequests: Too many guesses.
            AuthorityUnavailable: Nobody can tell at the moment.
        """
        if credentials is None and not (needed and self.admits_strangers):
            raise Unauthorized(needed=[access.detail() for access in needed])
        caller = await self.identify(credentials, address)
        known_until = caller.known_until
        for access in needed:
            is_allowed = await self._is_allowed(caller, access)
            known_until = min(known_until, self.authorizer.known_until(caller.identity, access))
            if not is_allowed:
                details = [access.detail() for access in needed]
                if self.tells_denied and not caller.identity.is_anonymous:
                    raise Denied(needed=details)
                error = None if credentials is None else "insufficient_scope"
                raise Unauthorized(error=error, needed=details)
        if caller.grants is not None:
            missing = [access for access in needed if not caller.grants.cover(access)]
            if missing:
                raise insufficient_scope(missing)
        return replace(caller, known_until=known_until)

    async def lacks_scope_only(self, caller: Caller, access: Access) -> bool:
        """Tell whether somebody who was let in may do this, too, and only their token may not.

        With tokens of somebody else's that is not known: what they do not allow nobody may.
        """
        if caller.grants is None or caller.grants.cover(access) or not self.admits_strangers:
            return False
        try:
            return await self._is_allowed(caller, access)
        except NameInvalid:
            return False

    async def may(self, caller: Caller, access: Access) -> bool:
        """Tell whether somebody who was let in may do this, too."""
        if caller.grants is not None and not caller.grants.cover(access):
            return False
        try:
            return await self._is_allowed(caller, access)
        except NameInvalid:
            return False

    async def _is_allowed(self, caller: Caller, access: Access) -> bool:
        return await self.authorizer.allows(caller.identity, access)

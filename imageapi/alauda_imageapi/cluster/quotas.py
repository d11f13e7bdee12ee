"""ResourceQuotas that count objects: ``count/imagestreams.image.alauda.io``.

kube-controller-manager counts what there is, but only now and then and after deletions; that nobody
makes more than allowed is up to who makes it, and kube-apiserver does not look at what it passes
on (facts/apiserver.md 2.12). So each object is added to ``status.used`` before it is made, by an
update that only one of several replicas wins. What is added and then not made, because this
process died or an answer was lost, the controller takes away when it counts again, in five minutes
at the latest; until then there is less room than there should be.

Nobody tells who has changed a number. When less is used than there must be with a reservation,
either the controller has counted without it, or another replica has taken one of its own off: it is
left, and there is less room until the next count. When the controller counts in the moment between
a reservation and its object, that object is made and not counted, or taken off once more if others
have added meanwhile: there may be one more than allowed until the next count.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from weakref import WeakValueDictionary

from alauda_imageapi.cluster.records.store import ETCD_FULL
from alauda_imageapi.machinery.errors import (
    Forbidden,
    InsufficientStorage,
    ServiceUnavailable,
    StatusError,
)
from alauda_imageapi.machinery.resources import Context, Group
from alauda_imageapi.machinery.stored import Attempts
from alauda_registry.kube.errors import Conflict, KubeError, NotFound, StorageFull
from alauda_registry.kube.following import Followed
from alauda_registry.kube.resources import GroupVersionResource, Manifest, ResourceClient

logger = logging.getLogger(__name__)

QUOTAS = GroupVersionResource("", "v1", "resourcequotas")

_SUFFIXES = {
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("num", start=-3)},
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}


@dataclass(slots=True, eq=False)
class _Reservation:
    """One object for one quota.

    Attributes:
        namespace: Of both.
        quota: Its name.
        counted: What the quota calls that of which it counts one more.
        what: The object, for messages.
        used: What is used at least once it is counted, unless somebody else takes something off.
    """

    namespace: str
    quota: str
    counted: str
    what: str
    used: int = 0

    def is_beside(self, other: "_Reservation") -> bool:
        """Tell whether both are parts of the same number."""
        place = (self.namespace, self.quota, self.counted)
        return place == (other.namespace, other.quota, other.counted)


class ObjectQuotas:
    """Counts objects as they are made.

    Args:
        client: Asks the API server.
        group: Of the objects.
    """

    def __init__(self, client: ResourceClient, group: Group) -> None:
        self._client = client
        self._group = group
        self._followed = Followed(client, QUOTAS)
        self._queues: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._reserved: list[_Reservation] = []
        """All that objects are being made for, the latest last."""

    @property
    def trouble(self) -> str:
        """Say why quotas are not known; nothing once they are."""
        return "" if self._followed.is_known else self._followed.trouble

    async def run(self) -> None:
        """Follow the quotas, until cancelled."""
        await self._followed.run()

    @asynccontextmanager
    async def reserve(self, context: Context, resource: str, name: str) -> AsyncGenerator[None]:
        """Have room for an object while it is made.

        Raises:
            Forbidden: There is none.
            ServiceUnavailable: Whether there is cannot be found out.
            InsufficientStorage: It cannot be written down.
        """
        qualified = f"{resource}.{self._group.name}"
        counted, what = f"count/{qualified}", f'{qualified} "{name}"'
        reserved: list[_Reservation] = []
        try:
            for quota in self._followed.within(context.namespace) if context.namespace else ():
                quota_name = quota["metadata"]["name"]
                reservation = _Reservation(context.namespace, quota_name, counted, what)
                if await self._change(reservation, 1, dry_run=context.dry_run):
                    reserved.append(reservation)
            yield
        except StatusError:
            # It is not there for sure; of everything else the controller has to find out.
            await self._give_back(reserved)
            raise
        finally:
            for reservation in reserved:
                self._reserved.remove(reservation)

    async def _give_back(self, reserved: Sequence[_Reservation]) -> None:
        for reservation in reserved:
            try:
                await self._change(reservation, -1)
            except StatusError as error:
                # What went wrong before is what the client has to know, and the others are left.
                logger.warning(
                    "quota %s of namespace %s has one too many until the controller counts: %s",
                    reservation.quota,
                    reservation.namespace,
                    error,
                )

    async def _change(self, reservation: _Reservation, by: int, *, dry_run: bool = False) -> bool:
        """Add to what is used, and return whether anything was changed."""
        where = (reservation.namespace, reservation.quota)
        queue = self._queues.get(where)
        if queue is None:
            queue = self._queues[where] = asyncio.Lock()
        async with queue:
            try:
                async for _ in Attempts():
                    try:
                        return await self._change_once(reservation, by, dry_run=dry_run)
                    except Conflict:
                        continue
            except NotFound:
                # It was deleted, and limits nothing any more.
                return False
            except StorageFull as error:
                raise InsufficientStorage(ETCD_FULL) from error
            except KubeError as error:
                raise _unavailable(reservation) from error
        raise _unavailable(reservation)

    async def _change_once(self, reservation: _Reservation, by: int, *, dry_run: bool) -> bool:
        quota = await self._client.get(QUOTAS, reservation.namespace, reservation.quota)
        counted = reservation.counted
        status = quota.get("status") or {}
        if counted not in (status.get("hard") or {}):
            return False
        before, after = _check(reservation, status, by)
        if by < 0 and before < reservation.used:
            logger.info(
                "quota %s of namespace %s may have one too many until the controller counts: "
                "it has counted meanwhile, or another replica has taken something off",
                reservation.quota,
                reservation.namespace,
            )
            return False
        if dry_run:
            return False
        status["used"][counted] = str(after)
        await self._client.update(QUOTAS, quota, subresource="status")
        if by > 0:
            reservation.used = after
            self._reserved.append(reservation)
        else:
            self._lower_after(reservation)
        return True

    def _lower_after(self, reservation: _Reservation) -> None:
        """Let those that were counted on top of what was given back not miss it."""
        place = self._reserved.index(reservation)
        for later in self._reserved[place + 1 :]:
            if later.is_beside(reservation):
                later.used -= 1


def _check(reservation: _Reservation, status: Manifest, by: int) -> tuple[int, int]:
    """Return what is used, and what will be.

    Raises:
        Forbidden: That is too much, or was not counted yet.
    """
    quota, counted = reservation.quota, reservation.counted
    hard, used = parse_quantity(status["hard"][counted]), (status.get("used") or {}).get(counted)
    if used is None:
        raise Forbidden(
            f"{reservation.what} is forbidden: status unknown for quota: {quota}, resources: "
            f"{counted}"
        )
    before = int(parse_quantity(used))
    after = before + by
    if by > 0 and after > hard:
        raise Forbidden(
            f"{reservation.what} is forbidden: exceeded quota: {quota}, requested: {counted}={by}, "
            f"used: {counted}={used}, limited: {counted}={status['hard'][counted]}"
        )
    return before, max(after, 0)


def _unavailable(reservation: _Reservation) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"{reservation.what} cannot be counted for quota {reservation.quota}: try again in a "
        "moment",
        details={"retryAfterSeconds": 1},
    )


def parse_quantity(text: str) -> Decimal:
    """Read a number as Kubernetes writes it, such as ``10`` or ``1k``.

    Raises:
        ValueError: It is none.
    """
    suffix = next((end for end in (text[-2:], text[-1:]) if end in _SUFFIXES), "")
    try:
        return Decimal(text.removesuffix(suffix)) * _SUFFIXES.get(suffix, Decimal(1))
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is no quantity") from error

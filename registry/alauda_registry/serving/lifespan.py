"""The beginning and the end of a server, as its application and its log are told of them."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alauda_registry.serving.starting import CannotStart


async def live(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Pass on the beginning and the end of the server.

    Starlette sends the traceback of whatever kept it from starting. That helps with our mistakes;
    who has to mend something is told what, and nothing else.
    """
    failed: Message | None = None

    async def hold_back(message: Message) -> None:
        nonlocal failed
        if message["type"] == "lifespan.startup.failed":
            failed = message
        else:
            await send(message)

    try:
        await app(scope, receive, hold_back)
    except CannotStart as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
    except BaseException:
        if failed is not None:
            await send(failed)
        raise

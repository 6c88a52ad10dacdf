"""Requests of other sites are refused: a page that is open in the same browser must not read what is shown here.

It could otherwise have its name resolve to this machine (DNS rebinding), or open a web socket to it.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class OnlyFromHere:
    """An ASGI application that passes on what was asked of one of these hosts, by a page of the same."""

    def __init__(self, app: App, *, hosts: frozenset[str]) -> None:
        self.app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self.is_from_here(dict(scope["headers"])):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this address is not of this machine\n"})

    def is_from_here(self, headers: MutableMapping[bytes, bytes]) -> bool:
        """By the host that was asked for and, where a page asked, the one that the page is of."""
        asked, origin = headers.get(b"host", b""), headers.get(b"origin")
        return _host(b"//" + asked) in self._hosts and (origin is None or _host(origin) in self._hosts)


def _host(address: bytes) -> str:
    try:
        return urlsplit(address.decode("latin-1")).hostname or ""
    except ValueError:
        return ""

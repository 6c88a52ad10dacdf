"""Only who has the address that was printed is let in, and no other site: the token in it is kept as a cookie.

Other people of a login node reach this machine's own addresses too. A page of another site that is open in the same
browser, or of another server of this machine, could ask with that cookie; where a page asks, it must be one of these.
"""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN = "token"
"""The parameter of the address."""
_UNFRAMED = ((b"content-security-policy", b"frame-ancestors 'none'"), (b"x-frame-options", b"DENY"))


class Guard:
    """An ASGI application that passes on what those ask who know the token."""

    def __init__(self, app: App, *, token: str, port: int) -> None:
        self.app = app
        self._token = token.encode()
        self._cookie = f"realm_ds_{port}"  # A browser sends cookies to all ports of a host.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if not _is_of_our_page(headers):
            await _refuse(scope, send, b"pages of other addresses may not ask this one\n")
        elif scope["type"] == "http" and self._is_known(dict(_query(scope)).get(TOKEN, "")):
            await self._let_in(scope, send)
        elif self._is_known(_cookie(headers, self._cookie)):
            await self.app(scope, receive, _unframed(send))
        else:
            await _refuse(scope, send, b"open the address that `realm-ds explore` printed, with its token\n")

    def _is_known(self, token: str) -> bool:
        return secrets.compare_digest(token.encode(), self._token)

    async def _let_in(self, scope: Scope, send: Send) -> None:
        """To the same page, without the token: addresses are shown and kept."""
        asked = urlencode([(name, value) for name, value in _query(scope) if name != TOKEN])
        page = quote(f"/{scope['path'].lstrip('/')}") + (f"?{asked}" if asked else "")
        # Not Strict: the printed address may be followed from a terminal that is itself a page.
        cookie = f"{self._cookie}={self._token.decode()}; HttpOnly; SameSite=Lax; Path=/"
        headers = [(b"location", page.encode()), (b"set-cookie", cookie.encode())]
        await _unframed(send)({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body"})


def _is_of_our_page(headers: dict[bytes, bytes]) -> bool:
    """Whether no page asks, or one of the address that is asked, its port included."""
    origin = headers.get(b"origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin.decode("latin-1")).netloc.lower() == headers.get(b"host", b"").decode("latin-1").lower()
    except ValueError:
        return False


def _cookie(headers: dict[bytes, bytes], name: str) -> str:
    """Read leniently: other servers of the host have theirs in the same header."""
    parts = (part.strip().partition("=") for part in headers.get(b"cookie", b"").decode("latin-1").split(";"))
    return next((value for own, _, value in parts if own == name), "")


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)


def _unframed(send: Send) -> Send:
    """No page may show these inside of its own."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_UNFRAMED]}
        await send(message)

    return sent


async def _refuse(scope: Scope, send: Send, why: bytes) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain")]
    await _unframed(send)({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": why})

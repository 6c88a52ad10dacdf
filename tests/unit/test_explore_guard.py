"""Who is let in to the explorer: those who know the token, and no page of another address."""

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

from realm_ds.explore.guard import Guard

TOKEN, COOKIE = "a-token", "theirs={}; realm_ds_8642=a-token; x=1"


def asked_of_guard(kind: str, query: str = "", **headers: str) -> tuple[list[str], list[dict[str, object]]]:
    """(what was passed on, what was answered) when /compare?query is asked."""
    reached: list[str] = []
    sent: list[dict[str, object]] = []

    async def page(scope: MutableMapping[str, object], receive: object, send: Callable[[object], Any]) -> None:
        reached.append(str(scope["type"]))
        if kind == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: MutableMapping[str, object]) -> None:
        sent.append(dict(message))

    async def receive() -> dict[str, object]:
        return {}

    told = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "path": "/compare", "query_string": query.encode(), "headers": told}
    asyncio.run(Guard(page, token=TOKEN, port=8642)(scope, receive, send))
    return reached, sent


@pytest.mark.parametrize(
    ("host", "origin", "is_ours"),
    [
        ("127.0.0.1:8642", None, True),
        ("localhost:9000", "http://localhost:9000", True),
        ("Node01:8642", "http://node01:8642", True),
        ("[::1]:8642", "http://[::1]:8642", True),
        ("127.0.0.1:8642", "http://evil.example", False),
        ("127.0.0.1:8642", "http://127.0.0.1:8888", False),
        ("127.0.0.1:8642", "http://localhost:8642", False),
        ("127.0.0.1:8642", "null", False),
        ("127.0.0.1:8642", "http://[", False),
        ("", "", True),
    ],
)
def test_pages_of_other_sites_and_ports_are_refused(host: str, origin: str | None, is_ours: bool) -> None:
    headers = {"host": host, "cookie": COOKIE} | ({"origin": origin} if origin is not None else {})
    reached, sent = asked_of_guard("http", **headers)
    assert (reached, sent[0]["status"]) == ((["http"], 200) if is_ours else ([], 403))
    reached, sent = asked_of_guard("websocket", **headers)
    assert (reached, [message["code"] for message in sent]) == ((["websocket"], []) if is_ours else ([], [1008]))


@pytest.mark.parametrize(
    "cookie", ["", "realm_ds_8642=", "realm_ds_8642=another", "realm_ds_1=a-token", "a-token", ";=é"]
)
def test_without_the_token_nobody_is_let_in(cookie: str) -> None:
    for query in ("", "token=", "token=another", "q=a-token", "token=%ff"):
        reached, sent = asked_of_guard("http", query, host="h", cookie=cookie)
        assert (reached, sent[0]["status"]) == ([], 403)
        assert b"open the address that `realm-ds explore` printed" in bytes(sent[1]["body"])  # type: ignore[call-overload]
    reached, sent = asked_of_guard("websocket", "token=a-token", host="h", cookie=cookie)
    assert (reached, sent) == ([], [{"type": "websocket.close", "code": 1008}])


def test_the_printed_address_leaves_a_cookie_and_the_same_page_without_the_token() -> None:
    for query, page in (("token=a-token", b"/compare"), ("q=a+b%26&token=a-token&x=", b"/compare?q=a+b%26&x=")):
        reached, (start, _) = asked_of_guard("http", query, host="h")
        headers = dict(start["headers"])  # type: ignore[call-overload]
        assert (reached, start["status"], headers[b"location"]) == ([], 303, page)
        assert headers[b"set-cookie"] == b"realm_ds_8642=a-token; HttpOnly; SameSite=Lax; Path=/"


def test_nothing_is_shown_inside_of_another_page() -> None:
    for cookie in (COOKIE, ""):
        headers = dict(asked_of_guard("http", host="h", cookie=cookie)[1][0]["headers"])  # type: ignore[call-overload]
        assert headers[b"content-security-policy"] == b"frame-ancestors 'none'"
        assert headers[b"x-frame-options"] == b"DENY"

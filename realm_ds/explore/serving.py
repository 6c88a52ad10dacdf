"""`realm-ds explore`: the pages on an address of this machine, until Ctrl-C. What they show is theirs."""

import secrets
import socket
import sys
import warnings
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from nicegui import ui

from realm_ds.errors import ConfigError
from realm_ds.explore import asking_page, comparing_page, run_page
from realm_ds.explore.frame import FAVICON
from realm_ds.explore.guard import TOKEN, Guard
from realm_ds.explore.places import find_places
from realm_ds.explore.shelf import Shelf

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
ANY_HOST = frozenset({"0.0.0.0", "::"})


def explore(folders: Sequence[Path], *, host: str, port: int, is_to_open: bool) -> None:
    """Serve until interrupted. Raises ConfigError for an address that cannot be had, and what find_places raises."""
    places = find_places(folders)
    own = _listen(host, port)
    port, token = own.getsockname()[1], secrets.token_urlsafe(24)
    address = f"{address_of(host, port)}/?{TOKEN}={token}"
    if host.lower() not in LOOPBACK:
        print(
            f"realm-ds: --host {host} is reached over the network, where nothing is encrypted: who can listen there "
            "reads the passages, and the token in the address. Leave --host out and use ssh -L where that matters",
            file=sys.stderr,
        )
    # The library looks at every object there is for its server, and torch warns whoever looks at that one.
    warnings.filterwarnings("ignore", message="`torch.distributed.reduce_op`", category=FutureWarning)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    shelf = Shelf()
    for page in (asking_page, comparing_page, run_page):
        page.add(places, shelf)
    ui.run_with(
        app, title="REALM explorer", favicon=FAVICON, language="en-US", tailwind=False, gzip_middleware_factory=None,
        show_welcome_message=False, binding_refresh_interval=None,
    )  # fmt: skip
    config = uvicorn.Config(Guard(app, token=token, port=port), log_level="warning", timeout_graceful_shutdown=1)
    print(f"realm-ds: {address} shows {', '.join(map(str, folders))}; Ctrl-C ends it", flush=True)
    if is_to_open:
        webbrowser.open(address)
    with own, suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[own])


def address_of(host: str, port: int) -> str:
    """Where a browser finds it: by this machine's name where it listens on all addresses."""
    name = socket.gethostname() if host in ANY_HOST else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        own = socket.socket(family, socket.SOCK_STREAM)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind((host, port))
        own.listen()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port} ({error}): give another with --port, or 0 for any that is free"
        ) from error
    return own

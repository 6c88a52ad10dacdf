"""`realm-ds explore`: the pages on an address of this machine, until Ctrl-C. What they show is theirs."""

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
from realm_ds.explore.guard import LOOPBACK, OnlyFromHere
from realm_ds.explore.places import find_places
from realm_ds.explore.shelf import Shelf

ANY_HOST = frozenset({"0.0.0.0", "::"})


def explore(folders: Sequence[Path], *, host: str, port: int, is_to_open: bool) -> None:
    """Serve until interrupted. Raises ConfigError for an address that cannot be had, and what find_places raises."""
    places = find_places(folders)
    own = _listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{own.getsockname()[1]}"
    if host not in LOOPBACK:
        print(
            f"realm-ds: anyone who reaches {address} can read the passages and ask the models: there is no password. "
            "Leave --host out to be reached from this machine alone",
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
    served = app if host in ANY_HOST else OnlyFromHere(app, hosts=LOOPBACK | {host})
    config = uvicorn.Config(served, log_level="warning", timeout_graceful_shutdown=1)
    print(f"realm-ds: {address} shows {', '.join(map(str, folders))}; Ctrl-C ends it", flush=True)
    if is_to_open:
        webbrowser.open(address)
    with own, suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[own])


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

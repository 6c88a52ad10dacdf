"""The verb that shows what a model has learned, on a page."""

from pathlib import Path
from typing import Annotated

import typer

from realm_ds.cli.common import verb
from realm_ds.errors import ConfigError

PORT = 8642


@verb
def explore(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_OR_EXPORT...", help="Runs, exports, or the folder of a demo or a study."),
    ],
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)] = PORT,
    host: Annotated[
        str, typer.Option(help="Another address to listen on, reached over the network without encryption.")
    ] = "127.0.0.1",
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in the browser here.")] = False,
) -> None:
    """See what a model knows and where it looks: a local page to ask it, to compare two of them, and to browse a run.

    \b
        realm-ds explore runs/demo
        realm-ds explore runs/ict runs/pretrain
        ssh -L 8642:127.0.0.1:8642 cluster      then open here the address that it prints there

    Only the printed address, with its token, opens it. Nothing leaves this machine. Ends with Ctrl-C.
    """
    try:
        from realm_ds.explore.serving import explore as serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("realm_ds"):
            raise
        raise ConfigError(f"the explorer needs {error.name}: pip install 'realm-ds[explore]'") from error
    serve(folders, host=host, port=port, is_to_open=open_browser)

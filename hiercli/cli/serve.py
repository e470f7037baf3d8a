"""`hier serve`."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from hiercli.cli import options
from hiercli.cli.render import say
from hiercli.errors import InputError


def serve(
    index: Annotated[
        list[str],
        typer.Option(
            help="Serve this index, written by `hier embed --index`. Can be repeated.",
        ),
    ],
    host: Annotated[
        str,
        typer.Option(
            help="Listen on this address. 127.0.0.1 is this machine only; 0.0.0.0 is all networks."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Listen on this port; 0 takes a free one.")
    ] = 8000,
    token: Annotated[
        str,
        typer.Option(
            envvar="HIER_TOKEN",
            help="Answer only requests with this token, of 16 characters or more.",
            show_default="a new one if other machines can reach the server, else none",
        ),
    ] = "",
    model: Annotated[
        Path | None,
        typer.Option(help="Use this encoder instead of the one that built the index."),
    ] = None,
    root: options.Root = None,
    show_paths: Annotated[
        bool, typer.Option("--show-paths", help="Include paths of images in answers.")
    ] = False,
    show_originals: Annotated[
        bool,
        typer.Option(
            "--show-originals", help="Serve the image files themselves, not only thumbnails."
        ),
    ] = False,
    max_upload: Annotated[
        int, typer.Option(min=1, help="Refuse requests of more than this many megabytes.")
    ] = 32,
    timeout: Annotated[
        float, typer.Option(min=1, max=3600, help="Cancel a request after this many seconds.")
    ] = 30.0,
    connections: Annotated[
        int, typer.Option(min=1, max=10_000, help="Serve this many connections at a time.")
    ] = 500,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Run this many server processes.")
    ] = 1,
    decoders: Annotated[
        int,
        typer.Option(
            min=0,
            max=64,
            help="Decode images in this many processes (0: one per core). If a file crashes one, "
            "only that request fails.",
        ),
    ] = 0,
    device: options.Device = "auto",
    threads: options.Threads = 0,
    json_output: Annotated[
        bool,
        typer.Option(
            "--json", help="Print the address and token as JSON once the server is ready."
        ),
    ] = False,
) -> None:
    """Serve an index: a page to search and review it in a browser, and an HTTP API.

    The page takes images that are dropped, pasted or photographed, and words. It shows the tree,
    and what `hier review` finds in the index. The API is described at /api/openapi.json;
    `hiercli.Client` speaks it. When the index changes, the server opens the new state without
    refusing a request. Ctrl-C or SIGTERM stops the server after running requests finish.

    Only this machine can reach the server, unless --host says otherwise; then each request needs a
    token. Paths of files never leave the server unless --show-paths is given.

    Examples:

    - `hier serve --index idx.faiss`

    - `hier serve --index birds.faiss --index cars.faiss --port 9000`

    - `hier serve --index idx.faiss --host 0.0.0.0` (prints a link with a token)

    - `curl -F image=@query.jpg 'http://127.0.0.1:8000/api/search?k=5'`
    """
    from hiercli import extras

    # NumPy and FAISS read these when they are loaded. Threads of a BLAS would wait for each other
    # in loops, while requests want the processor.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for package in extras.SERVE:
        extras.require(package)
    from hiercli.index import store
    from hiercli.index.address import target_of
    from hiercli.serve import running
    from hiercli.serve.settings import Settings, is_loopback

    for one in index:
        if not store.exists(target_of(one)):
            raise InputError(
                f"there is no index {one}. Build one with `hier embed FOLDER --index {one}`"
            )
    if not token and not is_loopback(host):
        token = running.new_token()
    settings = Settings(
        indexes=tuple(index),
        host=host,
        port=port,
        token=token,
        model="" if model is None else str(model),
        root="" if root is None else str(root),
        device=device,
        threads=threads,
        show_paths=show_paths,
        show_originals=show_originals,
        max_upload=max_upload * 2**20,
        seconds=timeout,
        connections=connections,
        decoders=decoders,
        workers=workers,
    )
    with running.listen(host, port) as listening:
        address = running.address_of(listening, host)

        def started() -> None:
            if json_output:
                print(json.dumps({"url": address, "token": token or None}), flush=True)
            link = f"{address}?token={token}" if token else address
            say(f"serving at {link} (stop with Ctrl-C)")

        running.run(settings, listening, started)

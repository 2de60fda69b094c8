"""The web process: uvicorn around the application, until it is told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Final, Protocol

import structlog
import uvicorn

from node.clock import wall_ms
from node.errors import passing_error
from node.settings import Settings
from node.web.app import make_app
from storage.database import Engine
from storage.objects import ObjectStore

LONGEST_STOP_S: Final = 1
"""Answers under way get this long at the end; pages take milliseconds."""

_LOOK_S: Final = 0.1

_log = structlog.get_logger("web")


class Stop(Protocol):
    """Anything that says when to stop, such as an Event of threading or multiprocessing."""

    def is_set(self) -> bool:
        """Say whether to stop."""
        ...


def open_to_network(host: str) -> bool:
    """Say whether other machines can reach a server that is bound to `host`."""
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def run_web(settings: Settings, engine: Engine, store: ObjectStore, stop: Stop) -> None:
    """Serve the pages on `[web] host` and `port` until `stop` is set; end within two seconds.

    Raises:
        PassingError: The address cannot be bound.
    """
    web = settings.web
    if open_to_network(web.host):
        _log.warning(
            "web-without-tls",
            host=web.host,
            port=web.port,
            what="The pages are open to the network without TLS: passwords and patient names "
            "can be read on the way. Bind to 127.0.0.1 and put a TLS proxy in front.",
        )
    app = make_app(settings, engine, store, now_ms=wall_ms)
    config = uvicorn.Config(
        app,
        # Addresses of pages carry study UIDs and what was searched for: no access log.
        access_log=False,
        log_config=None,
        server_header=False,
        # Only a proxy on this machine is believed about the caller's address and scheme.
        proxy_headers=True,
        forwarded_allow_ips="127.0.0.1,::1",
        timeout_graceful_shutdown=LONGEST_STOP_S,
        limit_concurrency=200,
        lifespan="off",
        ws="none",
    )
    with _bind(web.host, web.port) as listening:
        asyncio.run(_serve(uvicorn.Server(config), listening, stop))


def _bind(host: str, port: int) -> socket.socket:
    """Bind before uvicorn does: it would end the process with a bare exit code."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise passing_error(
            "web-address-in-use",
            f"The pages cannot be served: {error.strerror or error}.",
            where=f"[web] {host}:{port}",
            remedy="Stop what uses the port, or set another one in limner.toml.",
        ) from error


async def _serve(server: uvicorn.Server, listening: socket.socket, stop: Stop) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not serving.done():
        if stop.is_set():
            server.should_exit = True
        await asyncio.wait({serving}, timeout=_LOOK_S)
    serving.result()

"""What every request passes first: the host name, the method, the size; and the answer's headers.

A page of another site may point its own name at this node's address (DNS rebinding) and let the
reader's browser ask for it. The Host header still carries that other name, so only known names
are answered. An IP address is always answered: rebinding needs a name.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Content Security Policy: nothing from elsewhere, no inline script or style, no frames."""

HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

_LOOPBACK_NAMES: Final = frozenset({"localhost", "localhost.localdomain"})


def known_names(host: str) -> frozenset[str]:
    """Return the names under which a node bound to `host` may be asked for."""
    names = {host.lower(), *_LOOPBACK_NAMES}
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names)


def host_is_known(header: str, names: frozenset[str]) -> bool:
    """Say whether a Host header names this node, with or without a port."""
    name = header.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name.rstrip(".") in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """ASGI middleware: refuses unknown hosts, adds the security headers to every answer."""

    def __init__(self, app: ASGIApp, *, names: frozenset[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    ours = scope["path"].startswith("/static/")
                    headers["cache-control"] = "no-cache" if ours else "no-store"
            await send(message)

        if not host_is_known(Headers(scope=scope).get("host", ""), self._names):
            refusal = PlainTextResponse(
                "This node is not known by that name. Use its address, or set [web] host to the "
                "name in limner.toml.\n",
                status_code=400,
            )
            await refusal(scope, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)

"""Middleware for a service below a path of a proxy."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class RootPath:
    """Accepts paths with the root path, and without it where the proxy has removed it.

    Args:
        app: The application.
        root_path: Such as /imgsim; empty for none.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and self._root_path:
            scope["root_path"] = self._root_path
            if scope["path"] == self._root_path:
                scope["path"] += "/"
            if not scope["path"].startswith(f"{self._root_path}/"):
                scope["path"] = self._root_path + scope["path"]
        await self._app(scope, receive, send)

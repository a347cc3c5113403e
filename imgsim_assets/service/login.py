"""The page on which a person shows the token, and gets a cookie for it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from imgsim_assets.pages.templates import render
from imgsim_assets.service.security import COOKIE, LOGIN, LOGOUT, cookie_value, is_equal
from imgsim_assets.service.settings import ServeSettings

router = APIRouter(include_in_schema=False)

_COOKIE_SECONDS = 30 * 24 * 3600
_MAX_LENGTH = 1000


@router.get(LOGIN)
def get_login(request: Request) -> Response:
    """Show the form."""
    return _page(request, is_wrong=False)


@router.post(LOGIN)
def post_login(
    request: Request, token: Annotated[str, Form(max_length=_MAX_LENGTH)] = ""
) -> Response:
    """Give a cookie to whoever shows the token."""
    settings: ServeSettings = request.app.state.settings
    expected = settings.token.get_secret_value() if settings.token is not None else ""
    if not is_equal(token.strip(), expected):
        return _page(request, is_wrong=True)
    response = RedirectResponse(f"{settings.root_path}/", 303)
    response.set_cookie(
        COOKIE,
        cookie_value(expected),
        max_age=_COOKIE_SECONDS,
        path=settings.root_path or "/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


@router.post(LOGOUT)
def post_logout(request: Request) -> Response:
    """Take the cookie back."""
    settings: ServeSettings = request.app.state.settings
    response = RedirectResponse(f"{settings.root_path}{LOGIN}", 303)
    response.delete_cookie(COOKIE, path=settings.root_path or "/")
    return response


def _page(request: Request, *, is_wrong: bool) -> Response:
    settings: ServeSettings = request.app.state.settings
    page = render("login.html", title="Log in", root=settings.root_path, is_wrong=is_wrong)
    return HTMLResponse(page, 401 if is_wrong else 200)

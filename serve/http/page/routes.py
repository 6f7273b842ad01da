"""The routes of the page: itself at the root, its files below `page/`."""

from collections.abc import Callable

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serve.http.page.files import Page


def add_page(api: FastAPI, is_shown: Callable[[], bool], has_live: Callable[[], bool]) -> None:
    """Add the page to an app. It is no part of the API's description, and asks for no key.

    Args:
        is_shown: whether the settings want the page now.
        has_live: whether they allow live sessions.
    """
    files = Page()

    def page() -> Page:
        if not is_shown():
            raise HTTPException(404)
        return files

    @api.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return page().index(request, has_live())

    @api.get("/page/{path:path}", include_in_schema=False)
    async def file(request: Request) -> Response:
        return page().file(request, request.path_params["path"])

"""The web application: log-in, pages, and the routes of readers and manager."""

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Any

import h11
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import Field
from uvicorn.protocols.http.h11_impl import H11Protocol

from data_prep.annotation.project import AnnotationProject
from data_prep.annotation.web.guard import App, RequestGuard
from data_prep.annotation.web.manager_api import manager_routes
from data_prep.annotation.web.reader_api import reader_routes
from data_prep.annotation.web.session import RequestBody, cookie_of, session_of
from data_prep.annotation.workspace.people import SESSION_S
from data_prep.annotation.workspace.store import ConflictError
from pneumonia.runtime.errors import OutputError, PneumoniaError

PAGES = Path(__file__).with_name("pages")
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
# the only files served: the path of a request is never used as a file path
FILES = {
    "/": ("annotate.html", "text/html"),
    "/login": ("login.html", "text/html"),
    "/manage": ("manage.html", "text/html"),
    "/guidelines": ("guidelines.html", "text/html"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),
    **{
        f"/static/{name}": (name, "text/css" if name.endswith(".css") else "text/javascript")
        for name in (
            "app.css", "request.js", "saving.js", "viewer.js", "measuring.js", "typing.js",
            "report.js", "panels.js", "study_list.js", "trouble.js", "controls.js", "clock.js",
            "prior.js", "ahead.js", "reading.js", "annotate.js", "login.js", "manage.js",
            "compare.js", "guidelines.js",
        )
    },
}  # fmt: skip
HEADER_SECONDS = 15.0  # from the connection, or the first byte of a further request


class TimedConnection(H11Protocol):
    """Uvicorn's HTTP/1.1 connection, closed when a request's header is not complete in time.

    Uvicorn limits the idle time between requests, but not how long a header may take.
    """

    header_s = HEADER_SECONDS
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the time limit of the first request."""
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Stop the time limit when the header is complete; start it for the next one."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._arm()
        else:
            self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time limit."""
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_s, self._close)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        self._deadline = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


class LogIn(RequestBody):
    """Log-in request with the token of a person."""

    token: str = Field(min_length=8, max_length=200)


def make_app(
    project: AnnotationProject, hosts: Collection[str] = LOCAL_HOSTS, secure: bool = False
) -> App:
    """The application.

    Args:
        hosts: Accepted host names, without port.
        secure: Whether it is served over https; the session cookie is then https-only.
    """
    app = FastAPI(title="pneumonia annotate", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.project = project
    _add_faults(app)
    for place, (name, kind) in FILES.items():
        _add_page(app, place, name, kind)

    @app.post("/api/login")
    def log_in(body: LogIn, request: Request) -> Response:
        origin = request.client.host if request.client else ""
        if project.people.must_wait(origin):
            return _error(429, "Too many wrong tokens from here; wait a minute")
        secret = project.people.log_in(body.token, origin)
        if secret is None:
            return _error(401, "This token is not valid")
        answer = JSONResponse({})
        answer.set_cookie(
            cookie_of(request), secret, max_age=int(SESSION_S), httponly=True, samesite="strict",
            secure=secure,
        )  # fmt: skip
        return answer

    @app.post("/api/logout")
    def log_out(request: Request) -> Response:
        project.people.log_out(session_of(request))
        answer = JSONResponse({})
        answer.delete_cookie(cookie_of(request))
        return answer

    app.include_router(reader_routes(project))
    app.include_router(manager_routes(project))
    return RequestGuard(app, hosts)


def _add_page(app: FastAPI, place: str, name: str, kind: str) -> None:
    def page() -> Response:
        return Response((PAGES / name).read_bytes(), media_type=kind + "; charset=utf-8")

    app.add_api_route(place, page, methods=["GET"])


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status)


def _add_faults(app: FastAPI) -> None:
    @app.exception_handler(PneumoniaError)
    def known(request: Request, error: Any) -> JSONResponse:
        status = 400
        if isinstance(error, ConflictError):
            status = 409
        elif isinstance(error, OutputError):
            status = 507
        # what and fix only: the rest of a message may hold a path
        return _error(status, f"{error.what}. {error.fix}" if error.fix else str(error.what))

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: Any) -> JSONResponse:
        return _error(422, "Request is malformed")  # the input is not echoed

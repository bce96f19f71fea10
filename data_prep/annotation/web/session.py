"""Requests: the base of their bodies, and the person behind one."""

from urllib.parse import unquote

from fastapi import HTTPException, Request
from pydantic import BaseModel, ConfigDict

from data_prep.annotation.workspace.records import ADJUDICATION, MANAGER, Annotator

# Request header with the percent-encoded name of the person for whom the page was opened. Windows
# of a browser share the session cookie: without the header, boxes of one window would be stored
# under a later login in another window.
READER_HEADER = "x-reader"


class RequestBody(BaseModel):
    """Base of the bodies that routes take: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


def cookie_of(request: Request) -> str:
    """Session cookie name, one per port: browsers share cookies between ports of a host."""
    return f"pneumonia_annotate_{request.url.port or 443}"


def session_of(request: Request) -> str:
    """Secret from the session cookie; empty without a cookie."""
    return request.cookies.get(cookie_of(request), "")


def logged_in(request: Request) -> Annotator:
    """The person of the session.

    Raises:
        HTTPException: 401 without a valid session, or where the window is another person's.
    """
    person: Annotator | None = request.app.state.project.people.person_of(session_of(request))
    if person is None:
        raise HTTPException(401, "Log in first")
    window_of = request.headers.get(READER_HEADER)
    if window_of is not None and unquote(window_of) != person.name:
        raise HTTPException(401, "This window belongs to another person than the one logged in")
    return person


def manager(request: Request) -> Annotator:
    """The manager of the session; HTTPException 401 or 403 otherwise."""
    person = logged_in(request)
    if person.role != MANAGER:
        raise HTTPException(403, "Only the manager may do this")
    return person


def reader_name(person: Annotator) -> str:
    """Name under which readings are stored; the manager's are stored as adjudications."""
    return ADJUDICATION if person.role == MANAGER else person.name

"""Who asks: dependencies of the routes."""

from fastapi import HTTPException, Request

from data_prep.annotation.workspace.records import ADJUDICATION, MANAGER, Annotator


def cookie_of(request: Request) -> str:
    """The session cookie's name; browsers do not tell ports apart, two projects must."""
    return f"pneumonia_annotate_{request.url.port or 443}"


def session_of(request: Request) -> str:
    """The session's secret; empty without one."""
    return request.cookies.get(cookie_of(request), "")


def logged_in(request: Request) -> Annotator:
    """The person of the session.

    Raises:
        HTTPException: 401 without a valid session.
    """
    person: Annotator | None = request.app.state.project.people.who(session_of(request))
    if person is None:
        raise HTTPException(401, "Log in first")
    return person


def manager(request: Request) -> Annotator:
    """The manager, else 401 or 403."""
    person = logged_in(request)
    if person.role != MANAGER:
        raise HTTPException(403, "Only the manager may do this")
    return person


def reader_name(person: Annotator) -> str:
    """Under whose name readings are kept: the manager's are adjudications."""
    return ADJUDICATION if person.role == MANAGER else person.name

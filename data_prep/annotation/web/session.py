"""Route dependencies that resolve the person behind a request."""

from fastapi import HTTPException, Request

from data_prep.annotation.workspace.records import ADJUDICATION, MANAGER, Annotator


def cookie_of(request: Request) -> str:
    """Session cookie name, one per port: browsers share cookies between ports of a host."""
    return f"pneumonia_annotate_{request.url.port or 443}"


def session_of(request: Request) -> str:
    """Secret from the session cookie; empty without a cookie."""
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
    """The manager of the session; HTTPException 401 or 403 otherwise."""
    person = logged_in(request)
    if person.role != MANAGER:
        raise HTTPException(403, "Only the manager may do this")
    return person


def reader_name(person: Annotator) -> str:
    """Name under which readings are stored; the manager's are stored as adjudications."""
    return ADJUDICATION if person.role == MANAGER else person.name

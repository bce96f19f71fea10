"""The web application: routes, sessions, request checks, pages."""

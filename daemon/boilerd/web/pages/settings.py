"""What a browser keeps for its reader; the server sees none of it."""

from boilerd.web.page import Data, page
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit

#: Columns of the list of tasks that one may hide, and what they are called; `static/app.css` has them, too.
COLUMNS = (
    ("state", "State"),
    ("queue", "Queue"),
    ("took", "Ran for"),
    ("retried", "Retried"),
    ("timeout", "Timeout"),
    ("worker", "Worker"),
    ("deleted", "Deleted"),
    ("key", "Concurrency key"),
    ("payload", "Payload"),
    ("error", "Last error"),
)


@page("/settings", needs=Permission.VIEW, title="Settings")
def settings(_visit: Visit) -> Data:
    """Nothing that the server knows of its reader."""
    return {"columns": COLUMNS}

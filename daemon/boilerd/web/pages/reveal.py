"""One task as it is, with what its page hides: for those who may, and each time is noted."""

from boilerd.web.page import Data, action
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit


@action("/tasks/{id}/reveal", needs=Permission.REVEAL, title="Reveal", template="reveal.html", reveals=True)
def reveal(visit: Visit) -> Data:
    """All that somebody put into it, and what came of it."""
    found = visit.inspector.reveal(visit.path["id"])
    return {
        "id": found.id,
        "type": found.type,
        "payload": found.payload,
        "headers": dict(found.headers),
        "result": found.result,
        "last_error": found.last_error,
        "errors": [attempt.error for attempt in found.attempts if attempt.error],
    }

"""What a browser keeps for its reader; the server sees none of it."""

from boilerd.web.page import Data, page
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit


@page("/settings", needs=Permission.VIEW, title="Settings")
def settings(_visit: Visit) -> Data:
    """Nothing that the server knows."""
    return {}

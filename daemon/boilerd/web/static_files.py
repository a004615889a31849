"""The files that browsers keep: each under an address that has the hash of all, so that it never changes."""

import hashlib
import mimetypes
from functools import cached_property
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from boilerd.web.links import Links
from boilerd.web.refusal import Refusal

HERE = Path(__file__).parent / "static"
_KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
_SHOWN = frozenset(_KINDS)


class StaticFiles:
    """Holds the files in memory; they are less than 200 KB.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path = HERE) -> None:
        found = [path for path in sorted(folder.rglob("*")) if path.suffix in _SHOWN]
        self._files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}

    @cached_property
    def version(self) -> str:
        """Changes with any of them: modules import each other by relative paths."""
        told = hashlib.sha256()
        for name, content in self._files.items():
            told.update(f"{name}\0{len(content)}\0".encode() + content)
        return told.hexdigest()[:12]

    def address(self, links: Links, name: str) -> str:
        """Where a file is; raises KeyError for one that is not there."""
        if name not in self._files:
            raise KeyError(name)
        return links.path(f"/static/{self.version}/{name}")

    def answer(self, request: Request) -> Response:
        """The file that is asked for; raises Refusal."""
        name = request.path_params["name"]
        content = self._files.get(name)
        if content is None or request.path_params["version"] != self.version:
            raise Refusal(404, f"no file {name[:100]!r} of this version; load the page again")
        kind = _KINDS.get(Path(name).suffix) or mimetypes.guess_type(name)[0]
        return Response(content, media_type=kind, headers={"cache-control": "public, max-age=31536000, immutable"})

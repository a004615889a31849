"""What sentry_sdk sends, from several processes: a transport that writes it to a file, one item a line."""

import json
import os
from pathlib import Path
from typing import Any

from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

Item = dict[str, Any]
#: None listens there; the transports of the tests send nothing to it.
DSN = "http://key@127.0.0.1:9/1"


class FileTransport(Transport):
    """Appends each envelope with one write, so that those of several processes do not mix."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def capture_envelope(self, envelope: Envelope) -> None:
        lines = [json.dumps({**item, "pid": os.getpid()}).encode() + b"\n" for item in items_of(envelope)]
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, b"".join(lines))
        os.close(file)


def items_of(envelope: Envelope) -> list[Item]:
    """The events, transactions and check-ins of an envelope; ``kind`` says which each is."""
    return [{"kind": item.type, **json.loads(item.get_bytes())} for item in envelope.items]


def read_items(path: Path) -> list[Item]:
    """What is in such a file."""
    whole, _, _ = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
    return [json.loads(line) for line in whole.splitlines()]

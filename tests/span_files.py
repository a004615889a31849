"""Spans of several processes: an exporter that writes them to a file, one a line, and what tests read there."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import format_span_id, format_trace_id

Seen = dict[str, Any]


class FileExporter(SpanExporter):
    """Appends each batch with one write, so that those of several processes do not mix."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, b"".join(json.dumps(seen(span)).encode() + b"\n" for span in spans))
        os.close(file)
        return SpanExportResult.SUCCESS


def seen(span: ReadableSpan) -> Seen:
    """What tests look at."""
    own = span.context
    assert own
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace": format_trace_id(own.trace_id),
        "id": format_span_id(own.span_id),
        "parent": format_span_id(span.parent.span_id) if span.parent else None,
        "links": [format_span_id(link.context.span_id) for link in span.links],
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes or {}),
        "events": [event.name for event in span.events],
        "pid": os.getpid(),
    }


def read_spans(path: Path) -> list[Seen]:
    """The spans in such a file, in the order in which they ended."""
    whole, _, _ = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
    return [json.loads(line) for line in whole.splitlines()]

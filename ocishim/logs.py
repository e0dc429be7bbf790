"""The server's own log: lines of text where a person looks on, JSON objects a line for programs."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ocishim import tracing

if TYPE_CHECKING:
    from ocishim.config import LogSettings

_TEXT: Final = "%(asctime)s.%(msecs)03d %(levelname).1s %(name)s: %(message)s"
_TIME: Final = "%Y-%m-%dT%H:%M:%S"


class JsonFormatter(logging.Formatter):
    """An event as one JSON object; `extra={"fields": {…}}` of a call adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        event: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = record.__dict__.get("fields")
        if isinstance(fields, dict):
            event |= {key: value for key, value in fields.items() if key not in event}
        if trace := tracing.trace_id():
            event["trace_id"] = trace
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            event["stack"] = record.stack_info
        return json.dumps(event, default=str)


def configure(settings: LogSettings) -> None:
    """Everything goes to stderr: as text where that is a terminal, else as JSON, unless the settings choose."""
    chosen = settings.format
    if chosen == "auto":
        chosen = "text" if sys.stderr.isatty() else "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if chosen == "json" else logging.Formatter(_TEXT, _TIME))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("ocishim").setLevel(settings.level.upper())
    # Its errors reach the client and our own log with more sense.
    logging.getLogger("grpclib").setLevel(logging.CRITICAL)

"""Event streams as a browser reads them: the algorithm of WHATWG HTML 9.2.6, step by step.

A judge of `enforcement.content.sse`: slow, without bounds, and written from the text alone.
"""

from __future__ import annotations

import re

Dispatched = tuple[str, str]  # event type, data


def events(stream: bytes) -> list[Dispatched]:
    """The events that a stream dispatches, up to its end."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = re.split("\r\n|\r|\n", text)
    lines.pop()  # what has no line end is no line
    found: list[Dispatched] = []
    data = event_type = ""
    for line in lines:
        if line == "":
            if data == "":
                event_type = ""
                continue
            data = data.removesuffix("\n")
            found.append((event_type or "message", data))
            data = event_type = ""
            continue
        if line[0] == ":":
            continue
        if ":" in line:
            field, value = line[: line.index(":")], line[line.index(":") + 1 :]
            value = value[1:] if value[:1] == " " else value
        else:
            field, value = line, ""
        if field == "event":
            event_type = value
        elif field == "data":
            data += value + "\n"
    return found

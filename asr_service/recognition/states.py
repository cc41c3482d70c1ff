"""The states of a stream: two small machines, as tables.

The input machine says what the client may still send. The work machine says what the stream's slot holds: nothing of
use (FRESH, the next step is a first one) or the state after the segment's last step (RUNNING). A segment is what the
model hears as one: it ends with a finalize request, and where the model itself says that an utterance is over.
`python -m asr_service.recognition.states` prints the tables.
"""

from __future__ import annotations

import sys
from enum import Enum


class Input(Enum):
    """What the client may still send."""

    OPEN = "open"
    CLOSED = "closed"


class Work(Enum):
    """What the stream's slot holds."""

    FRESH = "fresh"
    RUNNING = "running"
    ENDED = "ended"


class Happening(Enum):
    """What moves the machines: the first four come from the client, the others from the work."""

    AUDIO = "audio"
    FINALIZE = "finalize"
    HALF_CLOSE = "half-close"
    CANCEL = "cancel"
    STEP = "step"
    MODEL_RESTART = "model restart"
    SEGMENT_END = "segment end"
    STREAM_END = "stream end"


INPUT: dict[Input, dict[Happening, Input]] = {
    Input.OPEN: {
        Happening.AUDIO: Input.OPEN,
        Happening.FINALIZE: Input.OPEN,
        Happening.HALF_CLOSE: Input.CLOSED,
        Happening.CANCEL: Input.CLOSED,
    },
    Input.CLOSED: {Happening.CANCEL: Input.CLOSED},
}

WORK: dict[Work, dict[Happening, Work]] = {
    Work.FRESH: {
        Happening.STEP: Work.RUNNING,
        Happening.SEGMENT_END: Work.FRESH,
        Happening.STREAM_END: Work.ENDED,
        Happening.CANCEL: Work.ENDED,
    },
    Work.RUNNING: {
        Happening.STEP: Work.RUNNING,
        Happening.MODEL_RESTART: Work.FRESH,
        Happening.SEGMENT_END: Work.FRESH,
        Happening.STREAM_END: Work.ENDED,
        Happening.CANCEL: Work.ENDED,
    },
    Work.ENDED: {Happening.CANCEL: Work.ENDED},
}


def tables() -> str:
    """Both machines as Markdown tables, for the documentation."""
    lines = []
    for name, table in (("input", INPUT), ("work", WORK)):
        columns = [happening for happening in Happening if any(happening in row for row in table.values())]
        lines.append(f"| {name} | " + " | ".join(column.value for column in columns) + " |")
        lines.append("| --- " * (len(columns) + 1) + "|")
        for state, row in table.items():
            cells = [row[column].value if column in row else "-" for column in columns]
            lines.append(f"| {state.value} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(tables())

"""Reads a form (`multipart/form-data`) as it comes: its file into the temporary folder, its fields into memory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import multipart

from ws_bridge.recordings import IN_MEMORY, Body
from ws_bridge.status import Failure, Refused

_MOST_PARTS = 1_200
"""More than a list of phrases has."""
_MOST_FIELD_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Form:
    """What a form had: values by name, in their order, and its file, at its start."""

    fields: Mapping[str, Sequence[str]]
    file: IO[bytes]


async def read_form(body: Body, content_type: str, file_name: str) -> Form:
    """Reads a form with a file of this name.

    Raises:
        Refused: it is no form, has no such file, or too much else.
    """
    kind, options = multipart.parse_options_header(content_type)
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise _bad_form("should be multipart/form-data with a boundary")
    fields: dict[str, list[str]] = {}
    found: IO[bytes] | None = None
    try:
        parser = multipart.PushMultipartParser(options["boundary"], max_segment_count=_MOST_PARTS)
        value, size, name, is_file = bytearray(), 0, "", False
        while not parser.closed:
            for event in parser.parse(await body.read()):
                if isinstance(event, multipart.MultipartSegment):
                    name, value = event.name or "", bytearray()
                    is_file = name == file_name
                    if is_file and found is not None:
                        raise _bad_form(f"has more than one {file_name}")
                    if is_file:
                        found = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - the form's
                elif event is None:
                    if not is_file:
                        fields.setdefault(name, []).append(value.decode("utf-8", "replace"))
                elif is_file:
                    assert found is not None
                    found.write(event)
                else:
                    value += event
                    size += len(event)
                    if size > _MOST_FIELD_BYTES:
                        raise _bad_form(f"has fields of more than {_MOST_FIELD_BYTES} bytes")
        if found is None:
            raise _bad_form(f"has no {file_name}", file_name)
    except multipart.MultipartError as error:
        _close(found)
        raise _bad_form(f"cannot be read: {error}") from None
    except BaseException:
        _close(found)
        raise
    found.seek(0)
    return Form(fields, found)


def _close(file: IO[bytes] | None) -> None:
    if file is not None:
        file.close()


def _bad_form(problem: str, field: str = "form") -> Refused:
    return Refused(Failure("invalid_argument", f"the form {problem}", field))

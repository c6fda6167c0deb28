"""What those who serve A2A 0.3 and those who call it share."""

from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.types import a2a_pb2 as pb

TENANT_KEY = "x-a2a-tenant"
"""Metadata of a call that names the tenant, for which no message of 0.3 has a field."""


def part_from_03(part: old.Part) -> pb.Part:
    """Return a part of a message or an artifact; one without content if it has none."""
    made = pb.Part(metadata=part.metadata if part.HasField("metadata") else None)
    match part.WhichOneof("part"):
        case "text":
            made.text = part.text
        case "file":
            made.filename, made.media_type = part.file.name, part.file.mime_type
            if part.file.WhichOneof("file") == "file_with_bytes":
                made.raw = part.file.file_with_bytes
            else:
                made.url = part.file.file_with_uri
        case "data":
            made.data.struct_value.CopyFrom(part.data.data)
    return made


def part_to_03(part: pb.Part) -> old.Part:
    """Return a part; data that is no object becomes the `value` of one, as 0.3 knows objects alone."""
    made = old.Part(metadata=part.metadata if part.HasField("metadata") else None)
    match part.WhichOneof("content"):
        case "data" if part.data.HasField("struct_value"):
            made.data.data.CopyFrom(part.data.struct_value)
        case "data":
            made.data.data.fields["value"].CopyFrom(part.data)
        case "raw":
            made.file.file_with_bytes = part.raw
        case "url":
            made.file.file_with_uri = part.url
        case _:
            made.text = part.text
    if made.HasField("file"):
        made.file.name, made.file.mime_type = part.filename, part.media_type
    return made

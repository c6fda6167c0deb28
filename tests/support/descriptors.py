"""Every descriptor of the product, whatever file it lies in."""

import functools
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from coxswain.common.v1 import access_pb2


@functools.cache
def product_files() -> tuple[FileDescriptor, ...]:
    """Return the descriptors of all files of the product."""
    generated = Path(access_pb2.__file__).parents[2]
    return tuple(
        importlib.import_module(f"coxswain.{file.parts[-3]}.v1.{file.stem}").DESCRIPTOR
        for file in sorted(generated.glob("*/v1/*_pb2.py"))
    )


def product_services() -> list[ServiceDescriptor]:
    """Return all services of the product."""
    return [service for file in product_files() for service in file.services_by_name.values()]


def product_messages() -> Iterator[Descriptor]:
    """Yield every message of the product, but for the entries of maps."""
    pending = [message for file in product_files() for message in file.message_types_by_name.values()]
    while pending:
        message = pending.pop()
        if not message.GetOptions().map_entry:
            yield message
            pending.extend(message.nested_types)


def make(name: str, /, **fields: Any) -> Message:
    """Return a message of the product by its full name without `coxswain.`. Example: `make("auth.v1.Member")`."""
    product_files()
    return GetMessageClass(Default().FindMessageTypeByName(f"coxswain.{name}"))(**fields)

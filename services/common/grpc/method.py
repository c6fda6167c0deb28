"""What is known of a method once it is registered."""

from dataclasses import dataclass

from google.protobuf.message import Message

from services.common.grpc.access import MethodAccess


@dataclass(frozen=True, slots=True)
class Method:
    """A method as it is registered."""

    path: str
    """Example: `/coxswain.auth.v1.AuthService/WhoAmI`."""
    service: str
    """The service of ours it belongs to, which is the audience of service tokens. Example: `auth`."""
    access: MethodAccess
    request_type: type[Message]
    foreign: bool = False
    """Whether the service is another protocol's."""

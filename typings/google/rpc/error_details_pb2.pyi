"""The part of google.rpc that Mattebox uses; googleapis-common-protos ships no types."""

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.message import Message

class RetryInfo(Message):
    @property
    def retry_delay(self) -> Duration: ...
    def __init__(self, *, retry_delay: Duration = ...) -> None: ...

class BadRequest(Message):
    class FieldViolation(Message):
        field: str
        description: str
        def __init__(self, *, field: str = ..., description: str = ...) -> None: ...

    @property
    def field_violations(self) -> RepeatedCompositeFieldContainer[BadRequest.FieldViolation]: ...
    def __init__(self, *, field_violations: Iterable[BadRequest.FieldViolation] = ...) -> None: ...

class ResourceInfo(Message):
    resource_type: str
    resource_name: str
    def __init__(self, *, resource_type: str = ..., resource_name: str = ...) -> None: ...

"""The part of google.rpc that Mattebox uses; googleapis-common-protos ships no types."""

from collections.abc import Iterable

from google.protobuf.any_pb2 import Any
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.message import Message

class Status(Message):
    code: int
    message: str
    @property
    def details(self) -> RepeatedCompositeFieldContainer[Any]: ...
    def __init__(self, *, code: int = ..., message: str = ..., details: Iterable[Any] = ...) -> None: ...

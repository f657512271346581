"""The messages of the peers that speak gRPC."""

from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.wrappers_pb2 import BytesValue

from load.peers.callers import Codec

# The fields of KServe's grpc_predict_v2.proto that a call needs: name, number, type, repeated. tritonclient, which has
# the whole file, refuses the protobuf that Mattebox is tested with.
_TENSOR = (("name", 1, "string", False), ("datatype", 2, "string", False), ("shape", 3, "int64", True))
_REQUEST = (("model_name", 1, "string", False), ("inputs", 5, "Tensor", True), ("raw_input_contents", 7, "bytes", True))
_RESPONSE = (("raw_output_contents", 6, "bytes", True),)


class BytesValueCodec(Codec):
    """The file alone, in protobuf's BytesValue."""

    def encode(self, file: bytes) -> bytes:
        """Returns a BytesValue that holds the file."""
        return BytesValue(value=file).SerializeToString()

    def decode(self, message: bytes) -> bytes:
        """Returns the file of a BytesValue."""
        return BytesValue.FromString(message).value


class InferCodec(Codec):
    """The file's bytes as a KServe tensor of uint8."""

    def __init__(self) -> None:
        pool = DescriptorPool()
        file = FileDescriptorProto(name="kserve.proto", package="inference", syntax="proto3")
        for name, fields in (("Tensor", _TENSOR), ("Request", _REQUEST), ("Response", _RESPONSE)):
            file.message_type.append(_message(name, fields))
        pool.Add(file)
        self._request: Any = GetMessageClass(pool.FindMessageTypeByName("inference.Request"))
        self._response: Any = GetMessageClass(pool.FindMessageTypeByName("inference.Response"))

    def encode(self, file: bytes) -> bytes:
        """Returns a ModelInferRequest whose only tensor is the file."""
        tensor = {"name": "photo", "datatype": "UINT8", "shape": [len(file)]}
        request = self._request(model_name="cutout", inputs=[tensor], raw_input_contents=[file])
        encoded: bytes = request.SerializeToString()
        return encoded

    def decode(self, message: bytes) -> bytes:
        """Returns the only tensor of a ModelInferResponse as a file."""
        (file,) = self._response.FromString(message).raw_output_contents
        decoded: bytes = file
        return decoded


def _message(name: str, fields: tuple[tuple[str, int, str, bool], ...]) -> DescriptorProto:
    message = DescriptorProto(name=name)
    for field, number, kind, repeated in fields:
        label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
        entry = message.field.add(name=field, number=number, label=label)
        if kind == "Tensor":
            entry.type, entry.type_name = FieldDescriptorProto.TYPE_MESSAGE, ".inference.Tensor"
        else:
            entry.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    return message

"""The gRPC messages of the Open Inference Protocol, in a pool of descriptors of their own.

Generated modules register their messages as ``inference.*`` in protobuf's one default pool, where two
packages that both bring them clash. Here they are made when they are needed, in a private pool.

A line of the table is a field: its number, its name, its type, and ``*`` for a repeated one; ``map`` is a map
from texts to that type. Source: Open Inference Protocol, "GRPC", and Triton's ``grpc_service.proto`` for the
extensions; numbers and types are what travels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE: Final = "inference"
SERVICE: Final = f"{PACKAGE}.GRPCInferenceService"

_NAMED_MODEL: Final = "1 name string, 2 version string"
_DURATIONS: Final = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
MESSAGES: Final[Mapping[str, str]] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "1 live bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "1 ready bool",
    "ModelReadyRequest": _NAMED_MODEL,
    "ModelReadyResponse": "1 ready bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "1 name string, 2 version string, 3 extensions string *",
    "ModelMetadataRequest": _NAMED_MODEL,
    "ModelMetadataResponse": "1 name string, 2 versions string *, 3 platform string,"
    " 4 inputs ModelMetadataResponse.TensorMetadata *, 5 outputs ModelMetadataResponse.TensorMetadata *",
    "ModelMetadataResponse.TensorMetadata": "1 name string, 2 datatype string, 3 shape int64 *",
    "InferParameter": "1 bool_param bool, 2 int64_param int64, 3 string_param string, 4 double_param double,"
    " 5 uint64_param uint64",
    "InferTensorContents": "1 bool_contents bool *, 2 int_contents int32 *, 3 int64_contents int64 *,"
    " 4 uint_contents uint32 *, 5 uint64_contents uint64 *, 6 fp32_contents float *,"
    " 7 fp64_contents double *, 8 bytes_contents bytes *",
    "ModelInferRequest": "1 model_name string, 2 model_version string, 3 id string,"
    " 4 parameters map InferParameter, 5 inputs ModelInferRequest.InferInputTensor *,"
    " 6 outputs ModelInferRequest.InferRequestedOutputTensor *, 7 raw_input_contents bytes *",
    "ModelInferRequest.InferInputTensor": "1 name string, 2 datatype string, 3 shape int64 *,"
    " 4 parameters map InferParameter, 5 contents InferTensorContents",
    "ModelInferRequest.InferRequestedOutputTensor": "1 name string, 2 parameters map InferParameter",
    "ModelInferResponse": "1 model_name string, 2 model_version string, 3 id string,"
    " 4 parameters map InferParameter, 5 outputs ModelInferResponse.InferOutputTensor *,"
    " 6 raw_output_contents bytes *",
    "ModelInferResponse.InferOutputTensor": "1 name string, 2 datatype string, 3 shape int64 *,"
    " 4 parameters map InferParameter, 5 contents InferTensorContents",
    "ModelStreamInferResponse": "1 error_message string, 2 infer_response ModelInferResponse",
    "ModelStatisticsRequest": _NAMED_MODEL,
    "StatisticDuration": "1 count uint64, 2 ns uint64",
    "InferStatistics": ", ".join(
        f"{number} {name} StatisticDuration"
        for number, name in enumerate((*_DURATIONS, "cache_hit", "cache_miss"), 1)
    ),
    "ModelStatistics": "1 name string, 2 version string, 3 last_inference uint64, 4 inference_count uint64,"
    " 5 execution_count uint64, 6 inference_stats InferStatistics",
    "ModelStatisticsResponse": "1 model_stats ModelStatistics *",
    "ModelRepositoryParameter": "1 bool_param bool, 2 int64_param int64, 3 string_param string,"
    " 4 bytes_param bytes",
    "RepositoryIndexRequest": "1 repository_name string, 2 ready bool",
    "RepositoryIndexResponse": "1 models RepositoryIndexResponse.ModelIndex *",
    "RepositoryIndexResponse.ModelIndex": "1 name string, 2 version string, 3 state string, 4 reason string",
    "RepositoryModelLoadRequest": "1 repository_name string, 2 model_name string,"
    " 3 parameters map ModelRepositoryParameter",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "1 repository_name string, 2 model_name string,"
    " 3 parameters map ModelRepositoryParameter",
    "RepositoryModelUnloadResponse": "",
}
"""The messages, an inner one after its outer one; fields are separated by commas."""

ONE_OF: Final = frozenset({"InferParameter", "ModelRepositoryParameter"})
"""Messages of whose fields one is there."""

_Field = descriptor_pb2.FieldDescriptorProto


def messages() -> dict[str, Any]:
    """The classes of the messages, by the table's names."""
    file = descriptor_pb2.FileDescriptorProto(
        name="mcp/open_inference.proto", package=PACKAGE, syntax="proto3"
    )
    made: dict[str, Any] = {}
    for name, fields in MESSAGES.items():
        outer, _, inner = name.rpartition(".")
        message = made[outer].nested_type.add(name=inner) if outer else file.message_type.add(name=name)
        made[name] = message
        if name in ONE_OF:
            message.oneof_decl.add(name="parameter_choice")
        for field in filter(None, fields.split(",")):
            _add_field(message, name, field.split())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in MESSAGES
    }


def _add_field(message: Any, name: str, words: list[str]) -> None:
    number, field_name, *kind = words
    field = message.field.add(name=field_name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if kind[0] == "map":
        # What protoc makes of a map: repeated entries of a key and a value.
        entry_name = field_name.title().replace("_", "") + "Entry"
        entry = message.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        _add_field(entry, name, ["1", "key", "string"])
        _add_field(entry, name, ["2", "value", kind[1]])
        kind = [f"{name}.{entry_name}", "*"]
    if kind[1:] == ["*"]:
        field.label = _Field.LABEL_REPEATED
    if name in ONE_OF:
        field.oneof_index = 0
    if kind[0] in MESSAGES or kind[0].endswith("Entry"):
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind[0]}"
    else:
        field.type = getattr(_Field, f"TYPE_{kind[0].upper()}")

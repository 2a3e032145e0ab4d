"""sentencepiece's ``tokenizer.model``: a protocol buffer (sentencepiece_model.proto), of which this is what we need.

The package's own generated code runs with the newest protobuf alone, which others, Apache Beam for one, do not allow.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # kinds of pieces
BPE = 2  # of models; 1: unigrams

_FIELD = descriptor_pb2.FieldDescriptorProto
# message -> its fields: (name, number, type or message, default)
_MESSAGES = {
    "SentencePiece": (
        ("piece", 1, _FIELD.TYPE_STRING, ""),
        ("score", 2, _FIELD.TYPE_FLOAT, ""),
        ("type", 3, _FIELD.TYPE_INT32, "1"),
    ),
    "TrainerSpec": (("model_type", 3, _FIELD.TYPE_INT32, "1"), ("byte_fallback", 35, _FIELD.TYPE_BOOL, "false")),
    "NormalizerSpec": (
        ("precompiled_charsmap", 2, _FIELD.TYPE_BYTES, ""),
        ("add_dummy_prefix", 3, _FIELD.TYPE_BOOL, "true"),
        ("remove_extra_whitespaces", 4, _FIELD.TYPE_BOOL, "true"),
    ),
    "ModelProto": (
        ("pieces", 1, "SentencePiece", ""),
        ("trainer_spec", 2, "TrainerSpec", ""),
        ("normalizer_spec", 3, "NormalizerSpec", ""),
    ),
}


def parse(data: bytes) -> Any:
    """The file's ModelProto. Raises the library's DecodeError, and UnicodeDecodeError, when it is none."""
    return _model().FromString(data)


@functools.cache
def _model() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="flamingo_jax/sentencepiece.proto", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for key, number, kind, default in fields:
            field = message.field.add(name=key, number=number, label=_FIELD.LABEL_OPTIONAL)
            if isinstance(kind, str):
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{kind}"
                field.label = _FIELD.LABEL_REPEATED if key == "pieces" else _FIELD.LABEL_OPTIONAL
            else:
                field.type = kind
                if default:
                    field.default_value = default
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ModelProto"))

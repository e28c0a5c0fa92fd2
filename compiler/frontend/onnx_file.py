"""ONNX files to protobufs, with names that are text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import onnx
from google.protobuf.message import DecodeError

from compiler.errors import CompileError
from isa.support.diagnostics import Diagnostic, X1Error
from isa.support.locations import FileLoc
from isa.support.paths import read_file

MAX_FILE: Final = (1 << 31) - 1
PLAIN_TEXT_BYTES: Final = 512
OnnxModel = Path | bytes
"""A file, or the content of one; that has no folder for external data."""
IN_MEMORY: Final = "model"
"""What a model is called that is no file."""


def parse_onnx(model: OnnxModel) -> onnx.ModelProto:
    """The model of a file or its content, nothing of it looked at but that its names are text.

    Raises:
        CompileError: the file is no ONNX model.
        UsageError: the file cannot be read.
    """
    place = FileLoc(IN_MEMORY if isinstance(model, bytes) else str(model))
    if (len(model) if isinstance(model, bytes) else model.stat().st_size) > MAX_FILE:
        text = "the file is too large for an ONNX model"
        raise CompileError(Diagnostic("model.size", text, place, f"at most {MAX_FILE} bytes"))
    proto = onnx.ModelProto()
    content = model if isinstance(model, bytes) else read_file(model)
    try:
        proto.ParseFromString(content)
    except DecodeError:
        why = "it is plain text" if _is_plain_text(content) else "the protobuf is cut short or damaged"
        raise CompileError(
            Diagnostic(
                "model.format",
                f"the file is not an ONNX model: {why}",
                place,
                remedy="export the model again, or copy it in binary mode",
            )
        ) from None
    if not _is_text(proto):
        raise CompileError(Diagnostic("model.format", "a name in the model is not UTF-8 text", place))
    if not proto.HasField("graph") or proto.ir_version < 1:
        raise CompileError(
            Diagnostic("model.format", "the file is not an ONNX model: it has no graph", place)
        )
    return proto


def external_files(path: Path) -> set[str]:
    """The names of the files beside a model that hold its tensors; none of what is no model."""
    try:
        proto = parse_onnx(path)
    except X1Error:
        return set()
    entries = (e for tensor in proto.graph.initializer for e in tensor.external_data)
    return {e.value for e in entries if e.key == "location"}


def _is_plain_text(content: bytes) -> bool:
    """Whether a file begins as text does."""
    start = content[:PLAIN_TEXT_BYTES]
    return start.isascii() and all(c.isprintable() or c.isspace() for c in start.decode("ascii"))


def _is_text(proto: onnx.ModelProto) -> bool:
    """Whether every name is UTF-8; the protobuf library takes others, and gives them as bytes or fails."""
    try:
        return all(isinstance(cast("object", text), str) for text in _texts(proto))
    except UnicodeDecodeError:
        return False


def _texts(proto: onnx.ModelProto) -> Iterator[str]:
    yield from (d.domain for d in proto.opset_import)
    yield from _graph_texts(proto.graph)
    for function in proto.functions:
        yield from (function.name, function.domain, function.overload, *function.input, *function.output)
        for node in function.node:
            yield from _node_texts(node)


def _graph_texts(graph: onnx.GraphProto) -> Iterator[str]:
    yield graph.name
    for node in graph.node:
        yield from _node_texts(node)
    for tensor in graph.initializer:
        yield from _tensor_texts(tensor)
    for sparse in graph.sparse_initializer:
        yield from _tensor_texts(sparse.values)
    for value in (*graph.input, *graph.output):
        yield from (value.name, *(d.dim_param for d in value.type.tensor_type.shape.dim))


def _node_texts(node: onnx.NodeProto) -> Iterator[str]:
    yield from (node.name, node.op_type, node.domain, node.overload, *node.input, *node.output)
    for attribute in node.attribute:
        yield from (attribute.name, attribute.ref_attr_name, *_tensor_texts(attribute.t))
        for graph in (attribute.g, *attribute.graphs):
            yield from _graph_texts(graph)


def _tensor_texts(tensor: onnx.TensorProto) -> Iterator[str]:
    yield tensor.name
    for entry in tensor.external_data:
        yield from (entry.key, entry.value)

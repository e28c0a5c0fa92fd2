"""Whether a node is one that its operator's definition allows: operands, attributes and their types.

The definitions are those of the onnx package, for the operator set that the model imports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, defs

from compiler.rules.importing import MICROSOFT_DOMAIN

MAX_SHOWN: Final = 60


_KINDS: Final = {
    **dict.fromkeys(
        ("transA", "transB", "axis", "opset", "keepdims", "noop_with_empty_axes"), AttributeProto.INT
    ),
    **dict.fromkeys(("channels_last", "ceil_mode", "count_include_pad", "group"), AttributeProto.INT),
    **dict.fromkeys(("kernel_shape", "strides", "pads", "dilations", "axes"), AttributeProto.INTS),
    **dict.fromkeys(("alpha", "beta"), AttributeProto.FLOAT),
    "auto_pad": AttributeProto.STRING,
}
"""The attributes of the operators of com.microsoft, for which the onnx package has no definitions."""


def signature_faults(node: onnx.NodeProto, opset: int) -> Iterator[str]:
    """Why the node does not follow its definition, as sentences."""
    if node.domain == MICROSOFT_DOMAIN:
        yield from _microsoft_faults(node)
        return
    try:
        schema: Any = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        yield f"'{node.op_type}' is no operator of opset {opset}"
        return
    yield from _count("operands", len(node.input), schema.min_input, schema.max_input)
    yield from _count("outputs", len(node.output), schema.min_output, schema.max_output)
    for required in range(min(schema.min_input, len(node.input))):
        if not node.input[required]:
            yield f"operand {required} is missing"
    yield from _attributes(node, schema)


def _microsoft_faults(node: onnx.NodeProto) -> Iterator[str]:
    for attribute in node.attribute:
        if _KINDS.get(attribute.name) != attribute.type or attribute.ref_attr_name:
            yield f"the attribute '{attribute.name[:MAX_SHOWN]}' is unknown or of another type"


def _attributes(node: onnx.NodeProto, schema: Any) -> Iterator[str]:
    given: dict[str, AttributeProto] = {}
    for attribute in node.attribute:
        if attribute.name in given:
            yield f"the attribute '{attribute.name}' is given twice"
        given[attribute.name] = attribute
        yield from _attribute(attribute, schema)
    for name, declared in cast("dict[str, Any]", schema.attributes).items():
        if declared.required and name not in given:
            yield f"the attribute '{name}' is missing"


def scale_faults(node: onnx.NodeProto, opset: int, constants: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """Constant scales of quantization, inputs named x_scale and the like, that are no scales."""
    for formal, name in zip(_formal_inputs(node.op_type, opset), node.input, strict=False):
        values = constants.get(name)
        if formal.endswith("_scale") and values is not None and values.dtype.kind == "f":
            wrong = values[~(np.isfinite(values) & (values > 0))]
            if wrong.size:
                yield f"the scale '{name}' ({formal}) is {float(wrong[0])}"


@cache
def _formal_inputs(op_type: str, opset: int) -> list[str]:
    """The names of an operator's inputs; none of an operator that is not known."""
    try:
        schema: Any = defs.get_schema(op_type, opset, "")
    except defs.SchemaError:
        return []
    return [formal.name for formal in schema.inputs]


def _count(what: str, found: int, least: int, most: int) -> Iterator[str]:
    if not least <= found <= most:
        yield f"the node has {found} {what}; allowed: {least} to {most}"


def _attribute(attribute: AttributeProto, schema: Any) -> Iterator[str]:
    declared = schema.attributes.get(attribute.name)
    if declared is None:
        yield f"there is no attribute '{attribute.name[:MAX_SHOWN]}'"
        return
    wanted = int(declared.type.value)
    if attribute.ref_attr_name or attribute.type != wanted:
        name = AttributeProto.AttributeType.Name(wanted) if wanted else "?"
        yield f"the attribute '{attribute.name}' is not of type {name}"

"""What must hold of a graph at each stage of compilation."""

from __future__ import annotations

from compiler.ir.graph import Const, Graph, Input, Node, infer, typed
from compiler.ir.op import ShapeError
from compiler.ir.stage import Stage
from compiler.ir.types import DType, Quant, TensorType


class VerifyError(AssertionError):
    """A graph that a pass left in a state it must not have; a mistake of ours, not of the user."""


def verify(graph: Graph) -> None:
    """Check a graph against the table of its stage.

    Raises:
        VerifyError: an operation of another stage, a type that its rule does not give, a quantized
            operation without quantization, or names that stand twice.
    """
    allowed = graph.stage.operations
    for node in graph.nodes():
        facts = (graph.stage, node.op, node.types, *(i.types for i in node.inputs))
        if graph.sound.get(node.id) != facts:
            _verify_node(graph, node, allowed)
            graph.sound[node.id] = facts
        _verify_value(node)
        if graph.stage.is_integer:
            _verify_edge(graph, node)
    names = [node.name for node in graph.nodes() if not isinstance(node.op, (Const, Input))]
    if not graph.stage.is_integer and len(set(names)) != len(names):
        raise VerifyError(f"two values have the name {next(n for n in names if names.count(n) > 1)!r}")
    if len(set(graph.output_names)) != len(graph.outputs):
        raise VerifyError("two graph outputs have the same name")
    if any(not graph.alive(n) for n in graph.outputs):
        raise VerifyError("a graph output is not part of the graph")


def _verify_node(graph: Graph, node: Node, allowed: tuple[str, ...]) -> None:
    """What depends on the stage, the operation and the types alone."""
    if node.op.name not in allowed and node.op.name.rpartition(".")[0] not in allowed:
        raise VerifyError(f"%{node.id} = {node.op.name} does not belong to stage {graph.stage}")
    inferred = _verify_type(node)
    if graph.stage.is_integer:
        _verify_quantization(node, inferred.quant)
    if graph.stage is Stage.DEVICE and getattr(node.op, "layout", "NHWC") != "NHWC":
        raise VerifyError(f"%{node.id} = {node.op.name} is not in the device's layout")


def _verify_value(node: Node) -> None:
    if not isinstance(node.op, Const):
        return
    if node.value is None or node.value.shape != node.shape or node.value.dtype != node.type.dtype.numpy:
        raise VerifyError(f"%{node.id} = const has a type that is not its value's")


def _verify_edge(graph: Graph, node: Node) -> None:
    """Real numbers stand at the edges of an integer graph only; on the device they may be turned there."""
    on_device, real = graph.stage is Stage.DEVICE, node.type.dtype is DType.F32
    turned = on_device and real and node.op.name == "transpose"
    if node.op.name == "q.quantize":
        (source,) = node.inputs
        if on_device and source.op.name == "transpose":
            (source,) = source.inputs
        _require_source(node, source, "input")
    elif turned:
        _require_source(node, node.inputs[0], "input", "q.dequantize")
    elif real and node.op.name not in ("input", "const", "q.dequantize"):
        raise VerifyError(f"%{node.id} = {node.op.name} computes real numbers in a graph of integers")
    edges = ("q.dequantize", "q.returned")
    moved = on_device and node.op.name == "transpose" and node.inputs[0].op.name in edges
    returned = node.op.name in edges or moved
    given = isinstance(node.op, (Const, Input))
    if node in graph.outputs and not returned and not given:
        raise VerifyError(f"%{node.id} = {node.op.name} is returned and is not dequantized")


def _require_source(node: Node, source: Node, *allowed: str) -> None:
    if source.op.name not in allowed:
        raise VerifyError(
            f"%{node.id} = {node.op.name} reads {source.op.name}, which is no edge of the graph"
        )


def _verify_type(node: Node) -> TensorType:
    """The type that the operation's rule gives; what is declared has none, and gives its own."""
    if isinstance(node.op, (Const, Input)):
        if node.further:
            raise VerifyError(f"%{node.id} = {node.op.name} has more than one result")
        return node.type
    try:
        inferred, *further = infer(node.op, node.inputs)
    except ShapeError as error:
        raise VerifyError(f"%{node.id} = {node.op.name}: {error.message}") from None
    given = typed(inferred, node.type.quant)
    same_kind = inferred.dtype == given.dtype or (inferred.dtype.is_code and given.dtype.is_code)
    if (given.dtype, given.shape) != (node.type.dtype, node.type.shape) or not same_kind:
        raise VerifyError(f"%{node.id} = {node.op.name} is {node.type}, its rule gives {inferred}")
    if node.further != tuple(further):
        raise VerifyError(f"%{node.id} = {node.op.name} has other results than its rule gives")
    return inferred


def _verify_quantization(node: Node, kept: Quant | None) -> None:
    """`kept` is the quantization that the operation's rule gives, if it gives one."""
    if node.type.dtype.is_code and node.type.quant is None:
        raise VerifyError(f"%{node.id} = {node.op.name} is 8-bit and not quantized")
    if node.type.dtype is DType.F32 and node.type.quant is not None:
        raise VerifyError(f"%{node.id} = {node.op.name} is float32 and quantized")
    if node.type.quant is not None:
        _verify_quant(node, node.type.quant)
    low, high = getattr(node.op, "bounds", node.type.dtype.bounds if node.type.dtype.is_code else (0, 0))
    least, most = node.type.dtype.bounds if node.type.dtype.is_code else (0, 0)
    if not least <= low <= high <= most:
        raise VerifyError(f"%{node.id} = {node.op.name} clamps to {low}..{high}, outside {least}..{most}")
    if kept is not None and node.type.quant != kept:
        raise VerifyError(f"%{node.id} = {node.op.name} changes the quantization")


def _verify_quant(node: Node, quant: Quant) -> None:
    """Scales are positive finite float32, one or, of a constant, one per index of an axis."""
    if quant.fault:
        raise VerifyError(f"%{node.id} = {node.op.name} has a scale that is {quant.fault}")
    if quant.dtype is not node.type.dtype:
        raise VerifyError(f"%{node.id} = {node.op.name} is {node.type} and quantized as {quant.dtype}")
    low, high = node.type.dtype.bounds
    if not low <= quant.zero_point <= high:
        raise VerifyError(f"%{node.id} = {node.op.name} has a zero point outside {low}..{high}")
    if quant.axis is None:
        many = len(quant.scales) != 1
    else:
        inside = 0 <= quant.axis < len(node.shape)
        many = not node.is_constant or not inside or len(quant.scales) != node.shape[quant.axis]
    if many:
        raise VerifyError(f"%{node.id} = {node.op.name} has scales that do not fit its shape")

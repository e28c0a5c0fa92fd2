"""Verify a trained binary: its stream `eval`, the evaluator and ONNX Runtime, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from compiler.ir.evaluate import evaluate
from compiler.ir.types import DType
from compiler.train.exporting.integers import device_codes, to_integers
from compiler.train.network import rebatched
from compiler.train.step import evaluation, is_activation
from isa.support.diagnostics import Diagnostic, UsageError
from x1.keras.trainable import Trainable
from x1.lab.onnx_runtime import Arrays, OracleSession
from x1.lab.oracle import Oracle
from x1.lab.verification import TensorComparison, Verification, expected_of
from x1.trainer import whole_batches


class IntegersOracle(Oracle):
    """What a trained network computes, written as operators on integers.

    Args:
        model: the network with its state.
        wanted: the tensors of codes to give out, with their types on the device.

    Raises:
        UsageError: ONNX Runtime is not installed.
        OracleFailure: it refuses the model.
    """

    def __init__(self, model: onnx.ModelProto, wanted: Mapping[str, DType]) -> None:
        super().__init__()
        self.mode = "integers written by x1, ORT_DISABLE_ALL"
        known = {value.name for value in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in known)
        self._session, self._wanted = OracleSession(model.SerializeToString()), wanted

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> Arrays:
        """Every tensor that was wanted, in the codes of the device."""
        found = self._session.run(inputs)
        return {n: device_codes(found[n], dtype) for n, dtype in self._wanted.items() if n in found}

    @property
    def failures(self) -> Mapping[str, str]:
        """None of single nodes."""
        return {}


def compare_trained(network: Trainable, samples: NDArray[np.float32]) -> Verification:
    """Run samples, as the network takes them, by the stream `eval`, and compare every tensor of codes.

    What it gives at last, from a table of the device's, is compared with the evaluator alone. A last batch
    that is not full is filled up with zeros.

    Raises:
        UsageError: ONNX Runtime is not installed, or there is no sample.
        CompileError: an operation that ONNX does not have.
    """
    if not len(samples):
        raise UsageError(Diagnostic("verify.empty", "there are no samples to verify on"))
    trainer = network.runner()
    whole, name, size = trainer.network, trainer.input, trainer.batches.evaluation
    graph = evaluation(rebatched(whole, size)).graph
    nodes = {n.name: n for n in graph.nodes() if is_activation(n)}
    types = {label: n.type.dtype for label, n in nodes.items()}
    oracle = IntegersOracle(to_integers(whole, trainer.state, network.perm), types)
    session, state = trainer.device.session("eval"), trainer.state
    rows = {label: TensorComparison(label, label, n.op.name, comparable=True) for label, n in nodes.items()}
    (last,), (given,) = graph.outputs, graph.output_names
    result = TensorComparison(given, given, last.op.name, comparable=True)
    for _, filled in whole_batches(samples, size):
        got = session.execute({name: filled}, tensors=True)
        assert not got.incomplete, f"the binary does not show the whole of {got.incomplete}"
        values = evaluate(graph, {**state, name: network.encode(filled)})
        expected = expected_of(oracle, {name: filled})
        for label, row in rows.items():
            value = values[nodes[label].id]
            row.add(got.tensors.get(label, value), value, expected.get(label))
        if last.name not in rows:
            result.add(got.outputs[given], values[last.id], None)
    tensors = [*rows.values()] if last.name in rows else [*rows.values(), result]
    return Verification(oracle.describe(), len(samples), tensors)

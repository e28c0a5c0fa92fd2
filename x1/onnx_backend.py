"""X1 as a backend of ONNX: `onnx.backend.base` on binaries that the simulated machine executes.

>>> from x1.onnx_backend import X1Backend
>>> outputs = X1Backend.prepare(model).run([picture])           # doctest: +SKIP

The machine computes with int8, so a float network needs samples. `prepare(model, calibrate=...)` takes
them; without, the inputs of the first run are the samples. ONNX gives weights as inputs too: as many of
the first inputs as the network can compute with are data, and the others are constants, for which the
network is compiled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.backend.base import Backend, BackendRep

from compiler.errors import CompileError
from compiler.ir.evaluate import Sample
from compiler.rules.importing import OTHER_FLOATS
from isa.support.diagnostics import Diagnostic, Findings, UsageError, X1Error, not_among
from x1 import api
from x1.session import Session

DEVICE: Final = "CPU"
"""The only device of ONNX that there is: the simulator runs on it."""
DATA_TYPES: Final = (TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, *OTHER_FLOATS)
"""Types of inputs that the machine computes with."""
IR_VERSION: Final = 10
NOT_FINITE: Final = "calibrate.range"
"""The code of a refusal of samples on which a tensor is not finite."""
PREPARED: Final = ("target", "searching", *api.OWN)
"""Options of `prepare` besides those of quantization."""
Array = NDArray[Any]
Inputs = Sequence[Array] | Mapping[str, Array] | Array


class X1Rep(BackendRep):
    """A network, compiled when it is first run or when it has samples.

    Args:
        model: whole, with its weights as initializers or inputs.
        options: of `x1.compile`, `target` and `calibrate` among them.
    """

    def __init__(self, model: ModelProto, options: Mapping[str, Any]) -> None:
        self._model = model
        self._options = dict(options)
        initialized = {t.name for t in model.graph.initializer}
        self._inputs = [v for v in model.graph.input if v.name not in initialized]
        self._session: Session | None = None
        self._constants: dict[str, Array] = {}
        """The inputs that the network was compiled for."""
        if self._options.get("calibrate") is not None:
            self._session = _session(model, self._options, {})

    def run(self, inputs: Inputs, **kwargs: Any) -> tuple[Array, ...]:
        """The outputs, in the order and with the types of the model.

        Args:
            inputs: arrays in the order of the model's inputs, or by name; one array where there is one input.
            kwargs: none is known.

        Raises:
            UsageError: not the inputs that the model has, or other constants than it was compiled for.
            CompileError: the network is not valid or not supported.
            TypeError: an unknown keyword.
        """
        if kwargs:
            raise TypeError(f"run() has no keyword '{next(iter(kwargs))}'")
        given = self._named(inputs)
        self._require_declared(given)
        if self._session is None:
            self._session = self._compiled(given)
        for name, value in self._constants.items():
            if not np.array_equal(given[name], value, equal_nan=value.dtype.kind == "f"):
                message = (
                    f"the input '{name}' is a constant of the compiled network, and is given another value"
                )
                raise UsageError(Diagnostic("run.constant", message, remedy="prepare the model again"))
        data = {a.name: given[a.name] for a in self._session.get_inputs()}
        return tuple(self._typed(self._session.run(None, data)))

    def _named(self, inputs: Inputs) -> dict[str, Array]:
        """The inputs by name, floats as float32."""
        names = [v.name for v in self._inputs]
        if isinstance(inputs, Mapping):
            pairs = list(inputs.items())
        else:
            values = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            pairs = list(zip(names, values, strict=False))
            if len(values) > len(names):
                message = f"{len(values)} inputs are given"
                raise UsageError(
                    Diagnostic("run.input", message, allowed=f"{len(names)}: {', '.join(names)}")
                )
        found = {name: _as_float32(_array(value)) for name, value in pairs}
        for name in (*found, *names):
            if name not in names or name not in found:
                message = f"there is no input '{name}'" if name not in names else f"input '{name}' is missing"
                raise UsageError(not_among("run.input", message, name, names))
        return found

    def _require_declared(self, given: Mapping[str, Array]) -> None:
        """Inputs have the types and the fixed extents that the model declares.

        Raises:
            UsageError: some have not.
        """
        found = Findings(UsageError)
        for value in self._inputs:
            kind, array = value.type.tensor_type, given[value.name]
            dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
            fits = len(dims) == array.ndim and all(
                d in (None, e) for d, e in zip(dims, array.shape, strict=True)
            )
            wanted = TensorProto.FLOAT if kind.elem_type in OTHER_FLOATS else kind.elem_type
            if kind.HasField("shape") and not fits:
                text = f"the input '{value.name}' has the shape {list(array.shape)}"
                found.add("run.shape", text, allowed=str(dims))
            if wanted and helper.np_dtype_to_tensor_dtype(array.dtype) != wanted:
                text = f"the input '{value.name}' is {array.dtype}"
                found.add("run.dtype", text, allowed=str(helper.tensor_dtype_to_np_dtype(wanted)))
        found.raise_if_any()

    def _compiled(self, given: Mapping[str, Array]) -> Session:
        """The network compiled for as many of its first inputs as data as it can compute with."""
        data = [v.name for v in self._inputs if _is_data(v, given[v.name])]
        refused: X1Error | None = None
        least = min(len(data), any(given[name].size > 1 for name in data))
        for count in range(len(data), least - 1, -1):
            fixed = {name: value for name, value in given.items() if name not in data[:count]}
            sample = {name: given[name] for name in data[:count]}
            try:
                session = _session(_with_constants(self._model, fixed, given), self._options, sample)
            except X1Error as error:
                refused = error
                if not isinstance(error, CompileError) and error.diagnostics[0].code != NOT_FINITE:
                    raise
            else:
                self._constants = fixed
                return session
        assert refused is not None
        raise refused

    def _typed(self, values: Sequence[Array]) -> list[Array]:
        """Outputs as the model declares them: float16 and its like are computed as float32."""
        declared = [o.type.tensor_type.elem_type for o in self._model.graph.output]
        return [
            v.astype(helper.tensor_dtype_to_np_dtype(kind)) if kind in OTHER_FLOATS else v
            for v, kind in zip(values, declared, strict=True)
        ]


class X1Backend(Backend):
    """What `onnx.backend` asks of a backend."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = DEVICE, **kwargs: Any) -> bool:
        """Whether the importer takes the model as it is; `kwargs` are those of `prepare`."""
        del kwargs
        try:
            api.load_network(model)
        except (CompileError, UsageError):
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: ModelProto, device: str = DEVICE, **kwargs: Any) -> X1Rep:
        """The network, ready to run; `kwargs` are options of `x1.compile`.

        Raises:
            UsageError: there is no such device, or an option is not known.
            CompileError: with `calibrate`, the network is not valid or not supported.
        """
        if not cls.supports_device(device):
            raise UsageError(not_among("usage.device", f"there is no device '{device}'", device, (DEVICE,)))
        api.require_known({k: v for k, v in kwargs.items() if k not in PREPARED}, PREPARED)
        return X1Rep(model, kwargs)

    @classmethod
    def run_node(
        cls, node: NodeProto, inputs: Any, device: str = DEVICE, outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Array, ...]:
        """Run a single operator on its inputs; `opset_version` is that of the default domain.

        `outputs_info` is not needed: types and shapes follow from the inputs.
        """
        del outputs_info
        given: list[Any] = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
        values = [np.asarray(value) for value in given]
        opset = int(kwargs.pop("opset_version", 20))
        names = list(dict.fromkeys(name for name in node.input if name))
        if len(values) != len(names):
            message = f"{len(values)} inputs are given"
            raise UsageError(Diagnostic("run.input", message, allowed=f"{len(names)}: {', '.join(names)}"))
        graph = helper.make_graph(
            [node],
            "node",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                for n, v in zip(names, values, strict=True)
            ],
            [helper.make_empty_tensor_value_info(name) for name in node.output if name],
        )
        imports = [helper.make_opsetid("", opset)]
        if node.domain:
            imports.append(helper.make_opsetid(node.domain, 1))
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
        return cls.prepare(model, device, **kwargs).run(values)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether the device is the one that there is."""
        return device.partition(":")[0] == DEVICE


prepare = X1Backend.prepare
run_node = X1Backend.run_node
run_model = X1Backend.run_model
supports_device = X1Backend.supports_device
is_compatible = X1Backend.is_compatible


def _session(model: ModelProto, options: Mapping[str, Any], sample: Sample) -> Session:
    """A session of the model; where it is to be quantized and there are no other samples, by this one."""
    network = api.load_network(model)
    if network.quantized is None and "calibrate" not in options:
        options = {**options, "calibrate": [sample]}
    return Session(api.compile(network, **options))


def _is_data(value: ValueInfoProto, given: Array) -> bool:
    """Whether the machine may compute with an input."""
    return value.type.tensor_type.elem_type in DATA_TYPES and given.size > 0


def _with_constants(model: ModelProto, fixed: Mapping[str, Array], given: Mapping[str, Array]) -> ModelProto:
    """The model with some inputs as initializers, and the shapes of the others as they are given."""
    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    kept = [v for v in graph.input if v.name not in fixed]
    del graph.input[:]
    for value in kept:
        if value.name in given:
            kind = value.type.tensor_type
            dims = [d.dim_value for d in kind.shape.dim]
            if not kind.HasField("shape") or 0 in dims:
                shape = given[value.name].shape
                value.CopyFrom(helper.make_tensor_value_info(value.name, kind.elem_type, shape))
        graph.input.append(value)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in fixed.items())
    return made


def _array(value: object) -> Array:
    """An input as an array.

    Raises:
        TypeError: it is missing.
    """
    if value is None:
        raise TypeError("an input is an array, not None")
    return np.asarray(value)


def _as_float32(array: Array) -> Array:
    """Other floats as float32, as the importer reads them."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    with np.errstate(over="ignore"):
        return array.astype(np.float32) if kind in OTHER_FLOATS else array

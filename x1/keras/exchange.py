"""Models of real Keras 3, in and out: by their configuration and their weights, without importing Keras.

What is read is what Keras itself saves: `get_config()`, `get_weights()`, the optimizer's `get_config()`, the
loss. A `.keras` file holds the same; its weights need h5py.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from isa.support.diagnostics import Diagnostic, UsageError
from isa.support.locations import UNKNOWN, FileLoc
from isa.support.paths import require_file
from x1.keras import layers as keras_layers
from x1.keras import losses, optimizers
from x1.keras.building import Wiring
from x1.keras.callbacks import History
from x1.keras.layers import InputLayer, Layer, plain
from x1.keras.models import Model
from x1.keras.utils import is_neutral

Array = NDArray[Any]
Config = Mapping[str, Any]
MAX_CONFIG: Final = 16 << 20
"""Bytes of the configuration in a file."""
MAX_WEIGHTS: Final = 1 << 31
TAKEN: Final[Mapping[str, tuple[str, ...]]] = {
    "Conv2D": (
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "dilation_rate",
        "groups",
        "activation",
        "use_bias",
    ),
    "DepthwiseConv2D": (
        "kernel_size",
        "strides",
        "padding",
        "depth_multiplier",
        "dilation_rate",
        "activation",
        "use_bias",
    ),
    "Dense": ("units", "activation", "use_bias"),
    "MaxPooling2D": ("pool_size", "strides", "padding"),
    "AveragePooling2D": ("pool_size", "strides", "padding"),
    "GlobalAveragePooling2D": ("keepdims",),
    "GlobalMaxPooling2D": ("keepdims",),
    "Flatten": (),
    "Reshape": ("target_shape",),
    "Add": (),
    "Concatenate": ("axis",),
    "ZeroPadding2D": ("padding",),
    "UpSampling2D": ("size", "interpolation"),
    "BatchNormalization": ("axis", "momentum", "epsilon", "center", "scale"),
    "Dropout": ("rate",),
    "Activation": ("activation",),
    "ReLU": ("max_value",),
    "LeakyReLU": ("negative_slope",),
    "ELU": ("alpha",),
    "PReLU": ("shared_axes",),
    "Softmax": (),
}
"""The arguments that are taken over, by layer."""
NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "name": (),
    "trainable": (),
    "dtype": (),
    "build_config": (),
    "data_format": (None, "channels_last"),
    "seed": (),
    "noise_shape": (None,),
    "axis": (-1, 3, [-1], [3], 1, [1]),
    "synchronized": (False,),
    "renorm": (False, None),
    "renorm_clipping": (None,),
    "renorm_momentum": (),
    "negative_slope": (0, 0.0),
    "threshold": (0, 0.0),
    "quantization_config": (None,),
    "lora_rank": (None,),
    "lora_alpha": (None,),
    "batch_shape": (),
    "sparse": (False,),
    "ragged": (False,),
    "optional": (False,),
}
"""Arguments that change nothing while they have one of these values; none: whatever they are."""
ENDS: Final = ("_initializer", "_regularizer", "_constraint")
"""Arguments of weights: initializers matter no more, the others only while there are none."""


def from_keras(model: Any) -> Model:
    """A model of real Keras 3, or of a `.keras` file, to be trained here: layers, weights, optimizer, loss.

    Raises:
        UsageError: a layer or an option that the device has not, or a file that is no such model.
    """
    if isinstance(model, (str, Path)):
        return _from_file(str(model))
    config: Config = model.get_config()
    made = _model(config, str(getattr(model, "name", "model")))
    made.set_weights([np.asarray(w) for w in model.get_weights()])
    loss, optimizer = getattr(model, "loss", None), getattr(model, "optimizer", None)
    if loss is not None and optimizer is not None:
        chosen = losses.get(loss)
        made.compile(optimizers.get(optimizer), chosen, chosen.metrics)
    return made


def to_keras(model: Model, other: Any) -> None:
    """Give the weights of a model to one of real Keras, of the same layers in the same order."""
    other.set_weights(model.get_weights())


def fit(model: Any, x: Any, y: Any, **options: Any) -> History:
    """Train a model of real Keras here: `from_keras`, `fit`, `to_keras`."""
    made = from_keras(model)
    history = made.fit(x, y, **options)
    to_keras(made, model)
    return history


# --- structure -----------------------------------------------------------------------------------


def _model(config: Config, name: str) -> Model:
    """The model of a configuration, its weights new.

    Raises:
        UsageError: layers or options that the device has not; all of them.
    """
    found: list[Diagnostic] = []
    entries: list[Config] = list(config.get("layers", ()))
    layers: list[Layer] = []
    for entry in entries:
        made = _layer(entry, found)
        if made is not None:
            layers.append(made)
    if found:
        raise UsageError(found)
    if not layers:
        _refuse(f"'{name}' has no layers")
    if any("inbound_nodes" in entry for entry in entries):
        reads = _inbound(entries, config)
    else:
        if not isinstance(layers[0], InputLayer):
            _refuse(f"'{name}' does not say what comes in", "build it first: a layer Input, or a call")
        reads = tuple(() if i == 0 else (i - 1,) for i in range(len(layers)))
    model = Model.__new__(Model)
    model.name = name
    model.wire(Wiring(tuple(layers), reads))
    return model


def _layer(entry: Config, found: list[Diagnostic]) -> Layer | None:
    """A layer of its entry; what it cannot be is noted."""
    kind, config = str(entry.get("class_name")), dict(entry.get("config", {}))
    name = str(config.get("name", kind))
    if kind == "InputLayer":
        layer = InputLayer(name=name)
        shape = config.get("batch_shape") or config.get("batch_input_shape") or ()
        layer.input_shape = tuple(int(n) for n in shape[1:] if n is not None)
        return layer
    if kind not in TAKEN:
        text = f"the layer '{name}' is a {kind}"
        found.append(Diagnostic("keras.layer", text, allowed=", ".join(TAKEN)))
        return None
    arguments: dict[str, Any] = {}
    for key, value in config.items():
        if key in TAKEN[kind]:
            one = _list(value) if key == "axis" else []
            arguments[key] = one[0] if len(one) == 1 else plain(value)
        elif not _is_neutral(key, value):
            text = f"the layer '{name}' has {key}={value!r}"
            found.append(Diagnostic("keras.layer", text, allowed="Keras's default"))
    trainable = bool(config.get("trainable", True))
    layer = getattr(keras_layers, kind)(name=name, trainable=trainable, **arguments)
    assert isinstance(layer, Layer)
    return layer


def _is_neutral(key: str, value: Any) -> bool:
    if key.endswith(ENDS):
        return key.endswith("_initializer") or value is None
    return is_neutral(NEUTRAL, key, value)


def _inbound(entries: Sequence[Config], config: Config) -> tuple[tuple[int, ...], ...]:
    """What each layer of a functional model reads, in order.

    Raises:
        UsageError: a layer that is used twice, or outputs that are not the last layer.
    """
    place = {str(e.get("name", e.get("config", {}).get("name"))): i for i, e in enumerate(entries)}
    reads: list[tuple[int, ...]] = []
    for name, entry in zip(place, entries, strict=True):
        nodes: Sequence[Any] = entry.get("inbound_nodes", ())
        if len(nodes) > 1:
            _refuse(f"the layer '{name}' is used {len(nodes)} times", "make a layer for each place")
        sources = [place.get(source, -1) for node in nodes for source in _histories(node)]
        if any(not 0 <= s < len(reads) for s in sources):
            _refuse(f"the layer '{name}' reads a layer that comes later, or is none of the model's")
        reads.append(tuple(sources))
    outputs = _list(config.get("output_layers"))
    several = [_list(o) for o in outputs if isinstance(o, (list, tuple))]
    first = several[0] if several else outputs
    if len(several) > 1:
        _refuse(f"the model has {len(several)} outputs", "one output")
    if first and place.get(str(first[0]), -1) != len(entries) - 1:
        _refuse("the output of the model is not its last layer")
    return tuple(reads)


def _histories(value: Any) -> Iterator[str]:
    """The layers whose tensors stand in an inbound node, in order."""
    if isinstance(value, dict):
        if _mapping(value).get("class_name") == "__keras_tensor__":
            yield str(_list(_mapping(_mapping(value).get("config")).get("keras_history"))[0])
            return
        for each in _mapping(value).values():
            yield from _histories(each)
    else:
        for each in _list(value):
            yield from _histories(each)


def _mapping(value: Any) -> dict[str, Any]:
    """An object of JSON; nothing for what is none."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    """A list of JSON; nothing for what is none."""
    return list(cast("Sequence[Any]", value)) if isinstance(value, (list, tuple)) else []


def _refuse(message: str, remedy: str = "", place: str = "") -> NoReturn:
    raise UsageError(Diagnostic("keras.model", message, FileLoc(place) if place else UNKNOWN, remedy=remedy))


# --- files ---------------------------------------------------------------------------------------


def _from_file(path: str) -> Model:
    """The model of a `.keras` file.

    Raises:
        UsageError: it is none, or h5py is missing.
    """
    require_file(Path(path))
    try:
        library: Any = importlib.import_module("h5py")
    except ImportError:
        _refuse("reading .keras files needs h5py", "pip install 'x1-compiler[keras]'")
    try:
        with zipfile.ZipFile(path) as archive:
            text = _member(archive, "config.json", MAX_CONFIG)
            weights = _member(archive, "model.weights.h5", MAX_WEIGHTS)
        parsed: Any = json.loads(text)
    except (zipfile.BadZipFile, ValueError, KeyError, OSError, RecursionError, NotImplementedError) as error:
        _refuse(f"it is no .keras file: {error}", place=path)
    whole = _mapping(parsed)
    config = _mapping(whole.get("config"))
    if not config:
        _refuse("it is no .keras file: it has no configuration", place=path)
    try:
        model = _model(config, str(config.get("name", "model")))
        for layer in model.wiring.layers:
            layer.most = MAX_WEIGHTS // 4
    except (TypeError, AttributeError, IndexError, ValueError, KeyError) as error:
        _refuse(f"its configuration does not fit: {error}", place=path)
    try:
        with library.File(io.BytesIO(weights), "r") as file:
            arrays = _weights(model, file)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        _refuse(f"its weights cannot be read: {error}", place=path)
    model.set_weights(arrays)
    compiled = _mapping(whole.get("compile_config"))
    if compiled.get("loss") and compiled.get("optimizer"):
        described = _mapping(compiled["optimizer"])
        optimizer = {**_mapping(described.get("config")), "name": str(described.get("class_name"))}
        chosen = losses.get(compiled["loss"])
        model.compile(optimizers.get(optimizer), chosen, chosen.metrics)
    return model


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > most:
        raise ValueError(f"{name} has {info.file_size} bytes, more than {most}")
    return archive.read(name)


def _weights(model: Model, file: Any) -> list[Array]:
    """The arrays of all layers; Keras numbers layers by their class in these files."""
    counts: dict[str, int] = {}
    found: list[Array] = []
    for layer in model.wiring.layers:
        kind = _snake(type(layer).__name__)
        count = counts.get(kind, 0)
        counts[kind] = count + 1
        name = kind if not count else f"{kind}_{count}"
        expected = model.built and layer.arrays
        for index, array in enumerate(expected.values()):
            held = file[f"layers/{name}/vars/{index}"]
            if tuple(held.shape) != array.shape:
                raise ValueError(f"'{layer.name}' has weights of the shape {list(held.shape)}")
            found.append(np.asarray(held, np.float32))
            if not np.isfinite(found[-1]).all():
                raise ValueError(f"'{layer.name}' has weights that are NaN or infinite")
    return found


def _snake(name: str) -> str:
    """Keras's name of a class: Conv2D is conv2d, MaxPooling2D max_pooling2d."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()

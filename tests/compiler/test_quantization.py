"""From samples to scales: histograms, methods, corrections, equalization, schemes."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from compiler import driver
from compiler.ir.evaluate import evaluate, outputs
from compiler.ir.graph import Graph
from compiler.ir.types import DType, Quant
from compiler.ops.conv2d import Conv2d, QConv2d
from compiler.ops.max_pool import MaxPool
from compiler.passes import calibrate
from compiler.passes.quantize import to_integers
from compiler.quantize.histogram import BITS, HALF, Histogram
from compiler.quantize.methods import METHODS, Observed, Recipe, chosen, parameters, round_outward
from compiler.quantize.scheme import Scheme
from isa import arithmetic
from isa.support.diagnostics import UsageError
from isa.support.records import replace
from tests.networks import calibrated, random_graph, random_inputs
from x1 import api
from x1.lab.verification import verify

Array = NDArray[np.float32]
INFINITY = math.inf
values = st.lists(
    st.floats(-1e6, 1e6, width=32, allow_nan=False, allow_subnormal=False), min_size=1, max_size=50
)


def observed(*samples: Array) -> Observed:
    seen = Observed(histogram=Histogram())
    for sample in samples:
        seen.include(sample)
    return seen


def squared_error(x: Array, quant: Quant) -> float:
    codes = arithmetic.quantize(x, quant.scale, quant.zero_point, -128, 127)
    return float(
        ((arithmetic.dequantize(codes, quant.scale, quant.zero_point) - x).astype(np.float64) ** 2).mean()
    )


@given(st.lists(values, min_size=1, max_size=6), st.randoms())
@settings(max_examples=200, deadline=None)
def test_a_histogram_depends_on_the_values_alone(samples: list[list[float]], order: object) -> None:
    arrays = [np.array(s, np.float32) for s in samples]
    together = observed(np.concatenate(arrays)).histogram
    shuffled = list(arrays)
    getattr(order, "shuffle")(shuffled)  # noqa: B009  (hypothesis gives a random.Random)
    one_by_one = observed(*shuffled).histogram
    assert together is not None
    assert one_by_one is not None
    assert together.exponent == one_by_one.exponent
    assert (together.counts == one_by_one.counts).all()


@given(values)
@settings(max_examples=200, deadline=None)
def test_a_histogram_counts_what_numpy_counts(given: list[float]) -> None:
    x = np.array(given, np.float32)
    found = observed(x).histogram
    assert found is not None
    assert int(found.counts.sum()) == x.size
    if found.exponent is not None:
        assert 2.0 ** (found.exponent - 1) <= np.abs(x).max() < 2.0**found.exponent
        edges = np.ldexp(np.arange(-HALF, HALF + 1, dtype=np.float64), found.exponent - BITS)
        assert (np.histogram(x.astype(np.float64), edges)[0] == found.counts).all()


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 100.0])
def test_percentile_leaves_no_more_outside_than_it_says(percentile: float) -> None:
    x = np.random.default_rng(1).standard_t(3, 50_021).astype(np.float32)
    low, high = METHODS["percentile"](observed(x), Recipe("percentile", percentile))
    allowed = (1 - percentile / 100) * x.size
    width = 2.0 ** (math.frexp(float(np.abs(x).max()))[1] - BITS)
    assert np.count_nonzero(x > high + width) <= allowed
    assert np.count_nonzero(x < low - width) <= allowed
    ranked = np.sort(x)
    assert low == pytest.approx(min(ranked[int(allowed)], 0), abs=width)
    assert high == pytest.approx(max(ranked[-1 - int(allowed)], 0), abs=width)


@pytest.mark.parametrize("kind", ["normal", "laplace", "student", "relu", "sparse"])
def test_mse_comes_near_the_best_range_there_is(kind: str) -> None:
    """Against a search over ranges with the error of the values themselves, not of the model."""
    generator = np.random.default_rng(7)
    x = {
        "normal": lambda: generator.standard_normal(40_000),
        "laplace": lambda: generator.laplace(size=40_000),
        "student": lambda: generator.standard_t(2, 40_000),
        "relu": lambda: np.maximum(generator.laplace(size=40_000), 0),
        "sparse": lambda: generator.laplace(size=40_000) * (generator.random(40_000) < 0.1),
    }[kind]().astype(np.float32)
    found = squared_error(x, chosen(observed(x), Recipe("mse")))
    low, high = float(x.min()), float(x.max())
    shares = np.linspace(0.05, 1, 40)
    best = min(
        squared_error(x, parameters(low * a, high * b))
        for a in (shares if low < 0 else [1.0])
        for b in shares
    )
    assert found <= 1.1 * best
    assert found <= squared_error(x, parameters(low, high))


def test_entropy_cuts_a_long_tail_and_keeps_what_is_even() -> None:
    generator = np.random.default_rng(3)
    even = generator.uniform(-1, 1, 100_000).astype(np.float32)
    assert METHODS["entropy"](observed(even), Recipe("entropy"))[1] > 0.95
    tail = generator.standard_t(2, 100_000).astype(np.float32)
    low, high = METHODS["entropy"](observed(tail), Recipe("entropy"))
    assert high < tail.max() / 2
    assert low > tail.min() / 2
    assert np.count_nonzero((tail < low) | (tail > high)) < 100


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_one_value_keeps_it(method: str) -> None:
    for value in (0.0, 1.5, -2.0):
        quant = chosen(observed(np.full((4, 4), value, np.float32)), Recipe(method))
        assert squared_error(np.full(1, value, np.float32), quant) <= (abs(value) / 100) ** 2


@pytest.mark.parametrize("method", METHODS)
@given(values)
@settings(max_examples=50, deadline=None)
def test_zero_is_exact_and_symmetric_scales_have_no_zero_point(method: str, given: list[float]) -> None:
    seen = observed(np.array(given, np.float32))
    for symmetric in (False, True):
        quant = chosen(seen, Recipe(method, symmetric=symmetric))
        assert -128 <= quant.zero_point <= 127
        assert quant.scale > 0
        assert not (symmetric and quant.zero_point)


def test_ranges_are_rounded_outward_to_ten_bits() -> None:
    for value in (1.0, 1.0009765625, 1.5, 3.14159, 1e-20, 7e30):
        rounded = round_outward(value)
        assert value <= rounded <= value * (1 + 2**-9)
        assert math.frexp(rounded)[0] * 2**10 == int(math.frexp(rounded)[0] * 2**10)


def biased_graph() -> tuple[Graph, list[dict[str, Array]]]:
    """A convolution on inputs far from zero, with weights that all round down."""
    generator = np.random.default_rng(5)
    g = Graph("biased")
    x = g.input("x", DType.F32, (1, 8, 9, 9))
    w = (generator.integers(-20, 20, (6, 8, 3, 3)) + 0.45).astype(np.float32)
    w[:, 0, 0, 0] = 127
    weights, bias = g.const(w / 100, "w"), g.const(np.zeros(6, np.float32), "b")
    conv = g.add(Conv2d((1, 1), (1, 1, 1, 1), (1, 1), "NCHW"), (x, weights, bias), name="y")
    g.set_outputs([conv], ["y"])
    return g, [{"x": generator.uniform(1, 2, (1, 8, 9, 9)).astype(np.float32)} for _ in range(6)]


def mean_error(graph: Graph, samples: list[dict[str, Array]], recipe: Recipe) -> float:
    """The largest mean error of an output channel, in steps."""
    quantized = calibrated(graph, samples, recipe)
    errors = [outputs(quantized, s)["y"] - outputs(graph, s)["y"] for s in samples]
    step = next(n.quant.scale for n in quantized.nodes() if isinstance(n.op, QConv2d))
    return float(np.abs(np.mean(errors, axis=(0, 1, 3, 4))).max()) / step


def test_a_corrected_bias_takes_the_mean_error_of_every_channel_away() -> None:
    graph, samples = biased_graph()
    assert mean_error(graph, samples, Recipe("minmax", bias_correction=False)) > 1
    assert mean_error(graph, samples, Recipe("minmax")) < 0.15


def test_a_correction_of_the_wrong_sign_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: the test above must fail on it."""
    graph, samples = biased_graph()
    right = calibrate.completed

    def wrong(*arguments: object) -> Scheme:
        scheme = right(*arguments)  # pyright: ignore[reportArgumentType]
        return replace(scheme, corrections={k: tuple(-v for v in c) for k, c in scheme.corrections.items()})

    monkeypatch.setattr(calibrate, "completed", wrong)
    assert mean_error(graph, samples, Recipe("minmax")) > 1


def uneven_graph(pooled: bool) -> Graph:
    """Two convolutions, the channels between them of very different ranges."""
    generator = np.random.default_rng(9)
    g = Graph("uneven")
    x = g.input("x", DType.F32, (1, 3, 8, 8))
    gains = (4.0 ** np.arange(-3, 3)).astype(np.float32).reshape(6, 1, 1, 1)
    first = g.const(generator.standard_normal((6, 3, 3, 3)).astype(np.float32) * gains, "w1")
    second = g.const(
        generator.standard_normal((4, 6, 1, 1)).astype(np.float32) / gains.reshape(1, 6, 1, 1), "w2"
    )
    conv = Conv2d((1, 1), (1, 1, 1, 1), (1, 1), "NCHW", (0.0, INFINITY))
    y = g.add(conv, (x, first, g.const(generator.standard_normal(6).astype(np.float32), "b1")), name="c1")
    if pooled:
        y = g.add(MaxPool((2, 2), (2, 2), (0, 0, 0, 0), "NCHW"), (y,), name="pool")
    last = Conv2d((1, 1), (0, 0, 0, 0), (1, 1), "NCHW")
    y = g.add(last, (y, second, g.const(np.zeros(4, np.float32), "b2")), name="y")
    g.set_outputs([y], ["y"])
    return g


@pytest.mark.parametrize("pooled", [False, True])
def test_equalized_layers_compute_the_same_bits_and_lose_less(pooled: bool) -> None:
    graph = uneven_graph(pooled)
    samples = random_inputs(graph, 4)
    equalized = driver.equalize(graph)

    def noise(g: Graph) -> float:
        quantized = calibrated(g, samples)
        return sum(float(((outputs(quantized, s)["y"] - outputs(graph, s)["y"]) ** 2).sum()) for s in samples)

    for sample in samples:
        assert outputs(graph, sample)["y"].tobytes() == outputs(equalized, sample)["y"].tobytes()
    assert noise(equalized) < noise(graph) / 10


@pytest.mark.parametrize("seed", range(20))
def test_equalizing_keeps_what_any_graph_computes(seed: int) -> None:
    graph = driver.prepare(random_graph(seed))
    (sample,) = random_inputs(graph, 1)
    before, after = outputs(graph, sample), outputs(driver.equalize(graph), sample)
    for name, value in before.items():
        assert value.tobytes() == after[name].tobytes()


@pytest.mark.parametrize("recipe", [Recipe(granularity="tensor"), Recipe(symmetric=True), Recipe("entropy")])
@pytest.mark.parametrize("seed", [3, 8, 21])
def test_every_recipe_gives_a_binary_of_onnx_runtimes_bits(recipe: Recipe, seed: int) -> None:
    graph = driver.prepare(random_graph(seed))
    samples = random_inputs(graph, 2)
    model = api.Model(graph.name, graph, calibrated(graph, samples, recipe))
    for node in model.integers().nodes():
        if recipe.granularity == "tensor" and isinstance(node.op, QConv2d):
            assert node.inputs[1].quant.axis is None
        if recipe.symmetric and node.type.quant is not None and node.op.name != "q.softmax":
            assert node.type.quant.zero_point == 0
    result = verify(model, api.compile(model, "tiny8"), samples)
    assert result.mismatches == 0, result.first_divergence


def test_calibration_forgets_every_sample() -> None:
    graph = driver.prepare(random_graph(4))
    shape = graph.inputs[0].shape
    alive: list[weakref.ref[Array]] = []

    def samples() -> Iterator[dict[str, Array]]:
        for i in range(50):
            gc.collect()
            assert sum(r() is not None for r in alive) <= 2
            array = np.full(shape, i, np.float32)
            alive.append(weakref.ref(array))
            yield {"x": array}

    gc.freeze()  # what the process holds otherwise need not be looked at fifty times
    try:
        calibrate.observe(graph, samples())
    finally:
        gc.unfreeze()
    assert len(alive) == 50


@pytest.mark.parametrize("seed", range(10))
def test_a_scheme_read_back_gives_the_same_network(seed: int) -> None:
    graph = driver.prepare(random_graph(seed))
    recipe = Recipe(("mse", "minmax")[seed % 2], granularity=("channel", "tensor")[seed % 3 == 0])
    scheme = driver.calibrate(graph, random_inputs(graph, 3), recipe)
    again = Scheme.parse(scheme.text(), "scheme")
    assert again == scheme
    assert driver.quantize(graph, again) == driver.quantize(graph, scheme)


def test_an_edited_scale_changes_that_tensor_alone(tmp_path: object) -> None:
    graph, samples = biased_graph()
    scheme = driver.calibrate(graph, samples, Recipe())
    edited = replace(scheme, tensors={**scheme.tensors, "y": Quant((0.25,), 3)}, weights={"y": "tensor"})
    before, after = to_integers(graph, scheme)[0], to_integers(graph, edited)[0]
    made = {n.name: n for n in after.nodes() if isinstance(n.op, QConv2d)}["y"]
    assert (made.quant.scale, made.quant.zero_point) == (0.25, 3)
    assert made.inputs[1].quant.axis is None
    assert before.inputs[0].type == after.inputs[0].type


def test_what_a_scheme_leaves_open_is_calibrated() -> None:
    graph, samples = biased_graph()
    whole = driver.calibrate(graph, samples, Recipe())
    part = Scheme({"x": Quant((0.5,), 0)})
    made = api.quantize(api.Model("m", graph), samples, scheme=part)
    assert made.scheme is not None
    assert made.scheme.tensors["x"] == Quant((0.5,), 0)
    assert made.scheme.tensors["y"] == whole.tensors["y"]


def test_equalizing_a_given_scheme_is_part_of_what_the_binary_says() -> None:
    graph = uneven_graph(pooled=False)
    samples = random_inputs(graph, 2)
    given = Scheme({"x": Quant((0.0625,), 0)})
    model = api.quantize(api.Model("uneven", graph), samples, scheme=given, equalize=True)
    again = Scheme.parse(api.compile(model, "tiny8").program.scheme, "binary")
    assert again.equalize
    assert again.tensors["x"] == Quant((0.0625,), 0)
    assert api.quantize(api.Model("uneven", graph), scheme=again).integers() == model.integers()


NAMES = ['a"b', "tab\there", "\x7f", "é🙂", "a.b", "", "a\nb", "back\\slash"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_survives_a_scheme_file(name: str) -> None:
    scheme = Scheme({name: Quant((0.5,), 1)}, {name: "tensor"}, {name: (1.5,)}, network=name)
    assert Scheme.parse(scheme.text(), "scheme") == scheme


WRONG = """\
format = "x1.scheme/2"
granularity = "chanel"
equalize = 3
colour = "red"

[tensors]
"a" = { scale = -1.0, zero_point = 0 }
"b" = { scale = 1.0, zero_point = 300 }
"c" = { scale = 1.0 }
"d" = { scale = inf, zero_point = 1 }
"e" = 7
"f" = { scale = true, zero_point = 0 }

[weights]
"a" = "row"

[bias_correction]
"a" = [1.0, "x"]
"b" = 3
"c" = [nan]
"""


def test_a_wrong_scheme_is_told_all_of_its_mistakes(golden: Callable[[str, str], None]) -> None:
    with pytest.raises(UsageError) as caught:
        Scheme.parse(WRONG, "net.toml")
    golden("errors/scheme.txt", f"{caught.value}\n")


@pytest.mark.parametrize("number", ["1" + "0" * 400, "0x" + "f" * 400, "1e400", "nan", "-inf"])
@pytest.mark.parametrize(
    "line", ['[tensors]\n"a" = {{ scale = {}, zero_point = 0 }}', '[bias_correction]\n"a" = [{}]']
)
def test_numbers_beyond_any_float_are_refused(number: str, line: str) -> None:
    with pytest.raises(UsageError, match="'a'"):
        Scheme.parse(f'format = "x1.scheme/1"\n{line.format(number)}\n', "net.toml")


def test_an_option_fills_what_a_scheme_does_not_say() -> None:
    graph, samples = biased_graph()
    model = api.quantize(
        api.Model("m", graph), samples, scheme=Scheme({"x": Quant((0.5,), 0)}), granularity="tensor"
    )
    assert model.scheme is not None
    assert model.scheme.granularity == "tensor"
    assert "weights per tensor" in model.scheme.calibration


@pytest.mark.parametrize(
    "text", ["[", "a = ", "\x00", "[tensors]\n[tensors]", "x = " + "[" * 5000, "x = " + "9" * 5000]
)
def test_what_is_no_toml_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not TOML"):
        Scheme.parse(text, "net.toml")


def test_a_scheme_of_another_network_is_refused() -> None:
    graph, samples = biased_graph()
    scheme = driver.calibrate(graph, samples, Recipe())
    other = driver.prepare(random_graph(1))
    with pytest.raises(UsageError, match="which the network 'random1' does not have"):
        api.quantize(api.Model("o", other), scheme=scheme)


def test_the_same_samples_in_another_order_give_the_same_scheme() -> None:
    graph = driver.prepare(random_graph(6))
    samples = random_inputs(graph, 6)
    recipe = Recipe(bias_correction=False)
    assert driver.calibrate(graph, samples, recipe) == driver.calibrate(graph, samples[::-1], recipe)


def test_evaluating_floats_is_not_changed_by_looking_at_them() -> None:
    graph = driver.prepare(random_graph(2))
    (sample,) = random_inputs(graph, 1)
    before = evaluate(graph, sample)
    calibrate.observe(graph, [sample])
    after = evaluate(graph, sample)
    assert all(before[i].tobytes() == after[i].tobytes() for i in before)


def test_calibrated_tables_have_no_entry_next_to_a_tie() -> None:
    """Scales that would put one there are made a little larger; given ones stay."""
    from compiler.ops.activation import QTable, Unary

    graph = Graph("table")
    x = graph.input("x", DType.F32, (1, 64))
    graph.set_outputs([graph.add(Unary("silu"), (x,), name="y")], ["y"])
    operation, given = QTable("silu", ()), Quant((1 / 255,), -128)
    tied = next(
        q
        for q in (Quant((float(np.float32(s)),), -128) for s in np.linspace(0.0028, 0.0029, 4000))
        if operation.is_near_a_tie(given, q)
    )
    samples = [{"x": np.linspace(0, 1, 64, dtype=np.float32)[None]}]
    high = tied.scale * 255
    for scheme in (None, Scheme({"x": Quant((float(np.float32(1 / 255)),), -128), "y": tied})):
        seen = calibrate.observe(graph, samples)
        seen.tensors["y"].high, seen.tensors["y"].low = high, 0.0
        made = calibrate.scheme_of(graph, seen, Recipe("minmax"), scheme)
        quantized = driver.quantize(graph, made)
        (table,) = (n for n in quantized.nodes() if isinstance(n.op, QTable))
        assert isinstance(table.op, QTable)
        assert table.op.is_near_a_tie(table.inputs[0].quant, table.quant) == (scheme is not None)

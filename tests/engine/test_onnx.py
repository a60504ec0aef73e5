"""Import of ONNX models: each operator as onnx's own cases say, whole networks as their shipped outputs say."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

import numpy as np
import pytest

import rainshed as rs

onnx = pytest.importorskip("onnx", reason="needs the package onnx: pip install 'rainshed[onnx]'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.backend.test.case import node as cases  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import rainshed.onnx  # noqa: E402
from rainshed.engine.onnx.load import CONVERTERS  # noqa: E402
from rainshed.engine.onnx.values import Tensor, reshaped  # noqa: E402
from rainshed.ops.errors import DataError, RainshedError, ShapeError, UnsupportedError, UsageError  # noqa: E402

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
FOLDER = Path(cases.__file__).parent
SLOW = {"averagepool", "maxpool"}  # their cases take seconds to make; they are held to the evaluator below


# -- each operator ----------------------------------------------------------------------------------------------------
def modules():
    known = {name.lower() for name in CONVERTERS} - SLOW
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem.replace("_", "") in known)


def cases_of(module):
    """onnx makes the cases of a module when it is imported, and keeps them in one list."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(f"{cases.__name__}.{module}")
    op = next(name for name in CONVERTERS if name.lower() == module.replace("_", ""))
    return [c for c in cases._NodeTestCases if any(n.op_type == op for n in c.model.graph.node)]


def arrays(values):
    found = [numpy_helper.to_array(v) if isinstance(v, TensorProto) else v for v in values]
    return found if all(isinstance(v, np.ndarray) for v in found) else None


def imported(model, values):
    """The model with all its inputs open, or with all but the first known where it asks for that, or with all known."""
    for first in (len(values), 1, 0):
        fixed = onnx.ModelProto.FromString(model.SerializeToString())
        for used in fixed.opset_import:
            used.version = max(used.version, 9)  # some operators are as they were in version 7, and so are their cases
        for given, value in list(zip(fixed.graph.input, values, strict=False))[first:]:
            fixed.graph.initializer.append(numpy_helper.from_array(value, given.name))
        try:
            return rs.onnx.load(fixed)
        except UnsupportedError as error:
            report = error
    raise report


# What no converter has, by the words of the report.
LACKING = (
    "element type", "spatial axes", "statistics as outputs", "training_mode", "select_last_index", "output_shape",
    "auto_pad", "Indices", "an input without a shape", "SpaceToDepth: attribute mode", "softmax: takes float",
    "is computed while the graph runs",
)  # fmt: skip
# Cases that ask for values which no graph of ours can have.
NEVER = ("test_gather_negative_indices", "_empty_set")


@pytest.mark.parametrize("module", modules())
def test_operator(module):
    passed = 0
    for case in cases_of(module):
        if not {n.op_type for n in case.model.graph.node} <= set(CONVERTERS) or any(n in case.name for n in NEVER):
            continue
        for inputs, outputs in case.data_sets:
            given, wanted = arrays(inputs), arrays(outputs)
            if given is None or wanted is None:
                continue
            try:
                model = imported(case.model, given)
            except UnsupportedError as error:
                assert any(text in str(error) for text in LACKING), f"{case.name}: {error}"
                continue
            names = [v.name for v in case.model.graph.input]
            feeds = {node.name: given[names.index(name)] for name, node in model.inputs.items()}
            for found, expected in zip(rs.evaluate(model.graph, feeds).values(), wanted, strict=False):
                assert found.dtype == expected.dtype and found.shape == expected.shape, case.name
                np.testing.assert_allclose(found, expected, 1e-4, 1e-5, err_msg=case.name)
            passed += 1
    assert passed


def test_every_operator_has_cases():
    found = {path.stem.replace("_", "") for path in FOLDER.glob("*.py")}
    assert {name for name in CONVERTERS if name.lower() not in found} == set()


def one_node(op, inputs, opset=18, outputs=("y",), **attrs):
    """A model of one operator over inputs name -> array."""
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph([helper.make_node(op, list(inputs), list(outputs), "it", **attrs)], "g", values, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def against_reference(model, feeds, tolerance=1e-5):
    expected = ReferenceEvaluator(model).run(None, feeds)
    found = rs.evaluate(rs.onnx.load(model).graph, feeds).values()
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, tolerance, tolerance)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "attrs",
    [
        {"kernel_shape": [2, 2]},
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 2, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"},
        {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "VALID"},
    ],
)
def test_pools(op, attrs):
    x = random(2, 3, 8, 7)
    against_reference(one_node(op, {"x": x}, **attrs), {"x": x})


def test_average_with_padding_and_lines():
    x = random(2, 3, 8, 7)
    attrs = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2], "count_include_pad": 1}
    against_reference(one_node("AveragePool", {"x": x}, **attrs), {"x": x})
    x = random(2, 3, 9)
    against_reference(one_node("MaxPool", {"x": x}, kernel_shape=[3], strides=[2], pads=[1, 1]), {"x": x})


@pytest.mark.parametrize("opset", [9, 12])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_before_version_13_covers_all_axes_from_one_on(opset, axis):
    x = random(2, 3, 4)
    (found,) = rs.evaluate(rs.onnx.load(one_node("Softmax", {"x": x}, opset, axis=axis)).graph, {"x": x}).values()
    rows = np.exp(x.reshape(int(np.prod(x.shape[:axis])), -1))
    np.testing.assert_allclose(found, (rows / rows.sum(1, keepdims=True)).reshape(x.shape), 1e-6)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_pad_with_its_own_elements(mode):
    x = random(2, 3, 5)
    model = one_node("Pad", {"x": x, "pads": np.array([0, 1, 2, 0, 0, 3])}, mode=mode)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 1, 2, 0, 0, 3]), "pads"))
    (found,) = rs.evaluate(rs.onnx.load(model).graph, {"x": x}).values()
    np.testing.assert_array_equal(found, np.pad(x, ((0, 0), (1, 0), (2, 3)), mode=mode))


# -- axes in any order ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(60))
def test_reshape_of_turned_axes(seed):
    """Any reshape of a value whose axes lie in any order gives what NumPy gives."""
    random = np.random.default_rng(seed)
    old = tuple(random.choice([1, 2, 3, 4], size=random.integers(1, 6)).tolist())
    factors = [p for n in old for p in {1: [1], 2: [2], 3: [3], 4: [2, 2]}[n]]
    edges = sorted(random.integers(0, len(factors) + 1, random.integers(0, 5)).tolist())
    new = tuple(int(np.prod(part)) for part in np.split(factors, edges))
    order = tuple(random.permutation(len(old)).tolist())
    array = np.arange(np.prod(old)).reshape(old)
    value = reshaped(Tensor(rs.constant(array.transpose(order)), order), new)
    assert value.shape == new
    np.testing.assert_array_equal(rs.evaluate(value.in_order(tuple(range(len(new))))), array.reshape(new))


def chain(*nodes, inputs, weights, outputs=("y",), opset=13):
    """A model from (op, inputs, output, attributes)."""
    made = [helper.make_node(op, ins, [out], f"{out}_node", **attrs) for op, ins, out, attrs in nodes]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.items()]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    initial = [numpy_helper.from_array(a, n) for n, a in weights.items()]
    graph = helper.make_graph(made, "net", values, results, initial)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def small_net(batch="N"):
    """Convolutions with a shuffle of channels, a residual, and a classifier; every kind of weight."""
    return chain(
        ("Conv", ["x", "w0", "b0"], "c0", {"pads": [1, 1, 1, 1]}),
        ("BatchNormalization", ["c0", "scale", "shift", "mean", "var"], "n0", {}),
        ("Relu", ["n0"], "r0", {}),
        ("Reshape", ["r0", "groups"], "g0", {}),
        ("Transpose", ["g0"], "g1", {"perm": [0, 2, 1, 3, 4]}),
        ("Reshape", ["g1", "back"], "s0", {}),
        ("Conv", ["s0", "w1"], "c1", {"group": 2, "pads": [1, 1, 1, 1]}),
        ("Mul", ["c1", "per_channel"], "m1", {}),
        ("Add", ["m1", "r0"], "a1", {}),
        ("GlobalAveragePool", ["a1"], "p1", {}),
        ("Flatten", ["p1"], "f1", {}),
        ("Gemm", ["f1", "w2", "b2"], "y", {"transB": 1}),
        inputs={"x": [batch, 3, 6, 5]},
        weights={
            "w0": random(4, 3, 3, 3), "b0": random(4, seed=1), "scale": random(4, seed=2), "shift": random(4, seed=3),
            "mean": random(4, seed=4), "var": np.abs(random(4, seed=5)) + 0.5, "groups": np.array([0, 2, 2, 6, 5]),
            "back": np.array([0, 4, 6, 5]), "w1": random(4, 2, 3, 3, seed=6), "per_channel": random(4, 1, 1, seed=7),
            "w2": random(7, 4, seed=8), "b2": random(7, seed=9),
        },
        opset=15,  # before, onnx's evaluator mixes statistics of the batch into those given
    )  # fmt: skip


def test_images_are_turned_once_and_weights_are_variables():
    model = rs.onnx.load(small_net())
    nodes = model.graph.nodes()
    assert [n.attrs["axes"] for n in nodes if n.op.name == "permute_dims"] == [(0, 2, 3, 1), (0, 1, 2, 4, 3)]
    variables = model.graph.variables
    assert variables["w0"].shape == (3, 3, 3, 4) and variables["per_channel"].shape == (4,)
    assert variables["w2"].shape == (4, 7)
    assert {n for n, v in variables.items() if not v.attrs["trainable"]} == {"mean", "var"}
    assert {n.origin.scope for n in nodes if n.op.name == "conv2d"} == {"c0_node", "c1_node"}
    assert str(next(n for n in nodes if n.op.name == "relu").origin) == "net:3"
    against_reference(small_net(2), {"x": random(2, 3, 6, 5, seed=10)})


@pytest.mark.parametrize("batch", [None, 3, "open"])
def test_batch(batch):
    """The batch of the file, a number, or open; also where the file's shapes have its own batch in them."""
    x = random(3, 3, 6, 5, seed=10)
    file = small_net("N" if batch is None else 1)
    if batch is not None:
        for tensor in file.graph.initializer:
            if tensor.name in ("groups", "back"):
                shape = numpy_helper.to_array(tensor).copy()
                shape[0] = 1
                tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
    model = rs.onnx.load(file, batch=batch)
    assert model.inputs["x"].shape[0] == 3 if batch == 3 else not model.graph.bound
    (expected,) = ReferenceEvaluator(small_net()).run(None, {"x": x})
    np.testing.assert_allclose(rs.evaluate(model.graph, {"x": x})["y"], expected, 1e-4, 1e-5)


def test_one_weight_in_two_shapes_is_one_variable():
    w = random(3, 5)
    model = chain(
        ("MatMul", ["x", "w"], "h", {}),
        ("Gemm", ["h", "w"], "y", {"transB": 1}),
        inputs={"x": [2, 3]},
        weights={"w": w},
    )
    x = random(2, 3, seed=1)
    against_reference(model, {"x": x})
    assert list(rs.onnx.load(model).graph.variables) == ["w"]


def test_gradients_are_those_of_the_function():
    """A loss over an imported output: the gradients are central differences."""
    model = rs.onnx.load(small_net(2))
    loss = rs.mean(rs.square(model.outputs["y"]))
    graph = rs.graph(loss=loss)
    feeds = {"x": random(2, 3, 6, 5, seed=10)}
    trained = {n: v for n, v in graph.variables.items() if v.attrs["trainable"]}
    values = {n: rs.evaluate(v) for n, v in graph.variables.items()}
    found = rs.evaluate(rs.grad(loss, list(trained.values())), feeds)
    for (name, gradient), seed in zip(zip(trained, found, strict=True), range(100), strict=False):
        direction = np.sign(random(*gradient.shape, seed=seed)).astype(np.float32)
        sides = [
            float(rs.evaluate(loss, feeds, variables={**values, name: values[name] + e * direction}))
            for e in (1e-2, -1e-2)
        ]
        np.testing.assert_allclose((gradient * direction).sum(), (sides[0] - sides[1]) / 2e-2, 0.05, 2e-2, err_msg=name)


def test_weights_of_the_file_as_values_of_variables():
    file = small_net(2)
    model = rs.onnx.load(file)
    new = random(4, 3, 3, 3, seed=20)
    next(t for t in file.graph.initializer if t.name == "w0").CopyFrom(numpy_helper.from_array(new, "w0"))
    feeds = {"x": random(2, 3, 6, 5, seed=10)}
    expected = rs.evaluate(rs.onnx.load(file).graph, feeds)["y"]
    given = {"w0": model.variable("w0", new)}
    np.testing.assert_array_equal(rs.evaluate(model.graph, feeds, variables=given)["y"], expected)
    with pytest.raises(DataError, match=r"\[4, 3, 3, 3\] in the file; found \[3, 3, 3, 4\]"):
        model.variable("w0", given["w0"])


@pytest.mark.parametrize("read", [["a"], ["b"], ["a", "b"], ["c", "a"]])
@pytest.mark.parametrize("opset", [11, 13])
def test_equal_parts_of_which_some_are_not_read(opset, read):
    x = random(6, 4)
    nodes = [helper.make_node("Split", ["x"], ["a", "b", "c"], axis=0), helper.make_node("Sum", read, ["y"])]
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    results = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "net", values, results)
    against_reference(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), {"x": x})


def test_whole_numbers_to_powers_that_are_none():
    model = chain(("Pow", ["x", "p"], "y", {}), inputs={"x": [3]}, weights={"p": np.array([0.5, 1.5, 2], np.float32)})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    against_reference(model, {"x": np.array([4, 9, 3], np.int32)})


def test_sums_of_exponentials_that_are_not_finite():
    model = chain(("ReduceLogSumExp", ["x"], "y", {"axes": [1], "keepdims": 0}), inputs={"x": [4, 2]}, weights={})
    x = np.array([[-np.inf, -np.inf], [np.inf, 1], [-np.inf, 2], [np.nan, 1]], np.float32)
    (found,) = rs.evaluate(rs.onnx.load(model).graph, {"x": x}).values()
    np.testing.assert_array_equal(found, np.array([-np.inf, np.inf, 2, np.nan], np.float32))


def test_names_that_differ_in_what_no_graph_can_hold():
    model = chain(
        ("Mul", ["x{", "w{"], "y=", {}),
        ("Mul", ["x}", "w}"], "y#", {}),
        inputs={"x{": [2], "x}": [2]},
        weights={"w{": np.array([1, 2], np.float32), "w}": np.array([3, 4], np.float32)},
        outputs=("y=", "y#"),
    )
    imported = rs.onnx.load(model)
    assert imported.inputs.keys() == {"x{", "x}"}
    first, second = rs.evaluate(
        imported.graph, {node.name: np.ones(2, np.float32) for node in imported.inputs.values()}
    ).values()
    np.testing.assert_array_equal([first, second], [[1, 2], [3, 4]])


def test_shapes_are_computed_now():
    """What exporters write for `x.view(x.shape[0], -1)`."""
    model = chain(
        ("Shape", ["x"], "s", {}),
        ("Gather", ["s", "first"], "n", {"axis": 0}),
        ("Concat", ["n", "rest"], "shape", {"axis": 0}),
        ("Reshape", ["x", "shape"], "y", {}),
        inputs={"x": [2, 3, 4]},
        weights={"first": np.array([0]), "rest": np.array([-1])},
    )
    graph = rs.onnx.load(model).graph
    assert [n.op.name for n in graph.nodes()] == ["input", "reshape"]
    assert graph.outputs["y"].shape == (2, 12)


# -- networks ---------------------------------------------------------------------------------------------------------
def shipped(name):
    """The shipped model's path, input and output: the input is what onnx's backend tests use."""
    tensor = TensorProto.FromString((LIGHT / f"light_{name}_output_0.pb").read_bytes())
    size = 3 * 224 * 224
    x = (np.arange(size).reshape(1, 3, 224, 224) / size).astype(np.float32)
    return LIGHT / f"light_{name}.onnx", x, numpy_helper.to_array(tensor)


@pytest.mark.parametrize("name", ["shufflenet", "resnet50", "densenet121"])
def test_network_gives_the_shipped_output(name):
    path, x, expected = shipped(name)
    model = rs.onnx.load(path)
    ((key, _),) = model.inputs.items()
    (found,) = rs.evaluate(model.graph, {key: x}).values()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, 1e-5)


@pytest.mark.parametrize("name, scores", [("squeezenet", "r65"), ("inception_v1", "r143")])
def test_network_gives_equal_scores(name, scores):
    """All weights of a layer are one number, so all scores are equal, near 1e10 and 1e21: one rounding of them decides the
    softmax, whose shipped output is 1 / 1000 everywhere."""
    path, x, expected = shipped(name)
    model = rs.onnx.load(path, outputs=[scores])
    found = rs.evaluate(model.graph, {"data_0": x})[scores]
    np.testing.assert_allclose(found, found.mean(dtype=np.float64), 1e-6)
    assert rs.onnx.load(path).outputs["softmaxout_1" if name == "squeezenet" else "prob_1"].shape == expected.shape


def random_values(graph):
    """Weights that keep the scale of what passes through them; variances among them are positive."""
    generator = np.random.default_rng(1)
    found = {}
    for name, node in graph.variables.items():
        if node.ndim > 1:
            spread = (2 / np.prod(node.shape[:-1])) ** 0.5
            found[name] = generator.normal(0, spread, node.shape).astype(np.float32)
        else:
            found[name] = generator.uniform(0.5, 1.5, node.shape).astype(np.float32)
    return found


def test_resnet50_on_four_machines():
    path = LIGHT / "light_resnet50.onnx"
    model = rs.onnx.load(path, batch=2, outputs=["r174"])
    feeds = {"gpu_0/data_0": random(2, 3, 224, 224)}
    values = random_values(model.graph)
    plan = rs.compile(model.graph, rs.Cluster.local(4), strategy="space")
    assert all(program.instructions for program in plan.programs)
    with rs.Session(plan, backend="threads") as session:
        session.set_variables(values)
        found = session.run(feeds)["r174"]
    expected = rs.evaluate(model.graph, feeds, variables=values)["r174"]
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, 1e-3, 1e-4 * np.abs(expected).max())


def test_squeezenet_trains_on_two_machines():
    model = rs.onnx.load(LIGHT / "light_squeezenet.onnx", batch=2, outputs=["r65"])
    loss = rs.graph(loss=rs.mean(rs.square(model.outputs["r65"] * 1e-9)), optimizer=rs.SGD(1e-3))
    plan = rs.compile(loss, rs.Cluster.local(2), strategy="batch")
    feeds = {"data_0": np.random.default_rng(0).random((2, 3, 224, 224), np.float32)}
    with rs.Session(plan, backend="threads") as session:
        first = session.run(feeds)["loss"]
        after = session.variables()
    gradient_of = rs.grad(loss.outputs["loss"], loss.variables["conv10_w_0"])
    expected, gradient = rs.evaluate([loss.outputs["loss"], gradient_of], feeds)
    np.testing.assert_allclose(first, expected, 1e-4)
    np.testing.assert_allclose(after["conv10_w_0"], 0.02 - 1e-3 * gradient, 1e-4)


# -- what is refused --------------------------------------------------------------------------------------------------
def test_everything_unsupported_is_listed_at_once():
    model = chain(
        ("NonZero", ["x"], "i", {}),
        ("Einsum", ["x"], "e", {"equation": "ij->ji"}),
        ("Einsum", ["e"], "e2", {"equation": "ij->ji"}),
        ("LSTM", ["x", "w", "r"], "l", {"clip": 1.0}),
        ("Softmax", ["e2"], "y", {"nobody_knows_this": 1}),
        ("Relu", ["x"], "z", {"nobody_knows_this": 1}),
        inputs={"x": [2, 3]},
        weights={"w": random(1, 8, 3), "r": random(1, 8, 2)},
        outputs=("y", "i", "l", "z"),
    )
    with pytest.raises(UnsupportedError) as caught:
        rs.onnx.load(model)
    assert str(caught.value).splitlines() == [
        "net: Rainshed lacks what 5 nodes need",
        "  NonZero: i_node",
        "  Einsum: e_node, e2_node",
        "  LSTM: clip=1.0: l_node",
        "  Relu: attribute nobody_knows_this: z_node",
    ]
    assert rs.onnx.load(chain(("Relu", ["x"], "y", {}), ("NonZero", ["x"], "i", {}), inputs={"x": [2]}, weights={}))


def test_errors_name_the_node():
    model = chain(("MatMul", ["x", "w"], "y", {}), inputs={"x": [2, 3]}, weights={"w": random(4, 5)})
    with pytest.raises(ShapeError, match=r"(?s)built at +net:1.*node +y_node \(MatMul\)"):
        rs.onnx.load(model)


def test_what_is_no_model(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"\x00\x01 nothing")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for what in (tmp_path / "no.onnx", tmp_path / "empty.onnx", tmp_path / "absent.onnx", b"\xff"):
        with pytest.raises(DataError):
            rs.onnx.load(what)
    gone = chain(("Relu", ["nowhere"], "y", {}), inputs={"x": [2]}, weights={})
    with pytest.raises(DataError, match="no node gives the value 'nowhere'"):
        rs.onnx.load(gone)
    old = one_node("Relu", {"x": random(2)}, opset=8)
    with pytest.raises(UnsupportedError, match="opset 8"):
        rs.onnx.load(old)
    with pytest.raises(UsageError, match="batch is a number"):
        rs.onnx.load(old, batch=0)


ODD = (0, -1, 7, 2**40, 1.5, float("nan"), "x", [1, 2], [-3], [1.0], [0] * 9)


def damaged(model, random):
    """The model with one thing wrong: an attribute, an input, an output, an operator, a shape."""
    graph = model.graph
    node = graph.node[random.integers(len(graph.node))]
    what = random.integers(6)
    if what == 0 and node.attribute:
        name = node.attribute[0].name
        del node.attribute[0]
        node.attribute.append(helper.make_attribute(name, ODD[random.integers(len(ODD))]))
    elif what == 1:
        node.input[random.integers(len(node.input))] = ("", "x", "nowhere")[random.integers(3)]
    elif what == 2:
        del node.input[-1]
    elif what == 3:
        graph.input[0].type.tensor_type.shape.dim[random.integers(4)].dim_value = int(random.integers(0, 9))
    elif what == 4:
        weight = graph.initializer[random.integers(len(graph.initializer))]
        weight.CopyFrom(numpy_helper.from_array(np.zeros(random.integers(0, 4, 2), np.float32), weight.name))
    else:
        node.op_type = sorted(CONVERTERS)[random.integers(len(CONVERTERS))]
    return model


@pytest.mark.parametrize("seed", range(4))
def test_damaged_models_are_refused_or_read(seed):
    random = np.random.default_rng(seed)
    refused = 0
    for _ in range(60):
        try:
            rs.onnx.load(damaged(small_net(2), random))
        except RainshedError as error:
            assert error.message
            refused += 1
    assert refused

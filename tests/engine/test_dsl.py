"""The language against NumPy: every function of the namespace, through `rs.evaluate`."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from laws import f32, f64, i32, i64

import rainshed as rs
from rainshed.engine import dsl
from rainshed.ops.errors import DataError, DTypeError, GraphError, RainshedError, ShapeError
from rainshed.ops.op import Op

POSITIVE = f64(3, 4, low=0.1, high=2.0)
INSIDE = f64(3, 4, low=-0.9, high=0.9)
ABOVE = f64(3, 4, low=1.1, high=3.0)
INTS = i64(3, 4)
SHIFTS = i64(3, 4, low=0, high=5)
X, Y = f64(3, 4), np.flip(f64(3, 4)).copy()
IMAGES = f64(2, 5, 6, 3)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def normal(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def padded(x):
    return np.pad(x, ((1, 0), (0, 2)), constant_values=3.0)


def erf(x):
    t = np.linspace(0, 1, 20001)[:, None, None] * x
    return 2 / np.sqrt(np.pi) * np.trapezoid(np.exp(-(t**2)), t, axis=0)


ELEMENTWISE = {
    "abs": (X,), "acos": (INSIDE,), "acosh": (ABOVE,), "add": (X, Y), "asin": (INSIDE,), "asinh": (X,), "atan": (X,),
    "atan2": (X, Y), "atanh": (INSIDE,), "bitwise_and": (INTS, SHIFTS), "bitwise_invert": (INTS,),
    "bitwise_left_shift": (INTS, SHIFTS), "bitwise_or": (INTS, SHIFTS), "bitwise_right_shift": (INTS, SHIFTS),
    "bitwise_xor": (INTS, SHIFTS), "ceil": (X,), "copysign": (X, Y), "cos": (X,), "cosh": (X,), "divide": (X, Y),
    "equal": (INTS, SHIFTS), "exp": (X,), "expm1": (X,), "floor": (X,), "floor_divide": (INTS, SHIFTS + 1),
    "greater": (X, Y), "greater_equal": (X, Y), "hypot": (X, Y), "isfinite": (X,), "isinf": (X,),
    "isnan": (X,), "less": (X, Y), "less_equal": (X, Y), "log": (POSITIVE,), "log10": (POSITIVE,), "log1p": (POSITIVE,),
    "log2": (POSITIVE,), "logaddexp": (X, Y), "logical_and": (X > 0, Y > 0), "logical_not": (X > 0,),
    "logical_or": (X > 0, Y > 0), "logical_xor": (X > 0, Y > 0), "maximum": (X, Y), "minimum": (X, Y),
    "multiply": (X, Y), "negative": (X,), "not_equal": (INTS, SHIFTS), "pow": (POSITIVE, Y), "positive": (X,),
    "reciprocal": (POSITIVE,), "remainder": (X, Y), "round": (X,), "sign": (X,), "signbit": (X,), "sin": (X,),
    "sinh": (X,), "sqrt": (POSITIVE,), "square": (X,), "subtract": (X, Y), "tan": (X,), "tanh": (X,), "trunc": (X,),
}  # fmt: skip

# name -> (arguments, keywords, NumPy's answer)
CASES = {
    "all": [((X > -9,), {"axis": 1}, lambda x, **k: np.all(x, **k)), ((INTS,), {}, np.all)],
    "any": [((X > 0.5,), {"axis": 0, "keepdims": True}, np.any), ((X,), {}, np.any)],
    "argmax": [((X,), {"axis": 1}, np.argmax), ((X,), {}, np.argmax), ((X,), {"keepdims": True}, np.argmax)],
    "argmin": [((X,), {"axis": 0, "keepdims": True}, np.argmin), ((X,), {}, np.argmin)],
    "asarray": [((X,), {}, np.asarray), (([[1, 2], [3, 4]],), {"dtype": rs.int32}, lambda x, dtype: np.int32(x))],
    "astype": [((X, rs.float32), {}, lambda x, d: x.astype(np.float32)), ((X, rs.float64), {}, lambda x, d: x)],
    "avg_pool2d": [((IMAGES, 2), {"padding": "same"}, lambda x, s, padding: pooled(x, np.nanmean))],
    "broadcast_arrays": [((X, Y[:1], Y[:, :1]), {}, np.broadcast_arrays)],
    "broadcast_to": [((X[:1], (3, 4)), {}, np.broadcast_to)],
    "clip": [
        ((X, -0.2, 0.3), {}, np.clip),
        ((X,), {"max": 0.1}, lambda x, max: np.minimum(x, max)),
        ((INTS, 0, 2), {}, np.clip),
    ],
    "concat": [
        (([X, Y],), {"axis": 1}, lambda x, axis: np.concatenate(x, axis)),
        (([X, Y],), {"axis": None}, lambda x, axis: np.concatenate(x, None)),
        (([X, f32(3, 4)],), {}, np.concatenate),
    ],
    "constant": [((2.5,), {}, np.float32), ((7,), {}, np.int64), (([True, False],), {}, np.array)],
    "count_nonzero": [((INTS,), {"axis": 1}, np.count_nonzero), ((X > 0,), {}, np.count_nonzero)],
    "cumulative_sum": [
        ((X,), {"axis": 1}, lambda x, axis: np.cumsum(x, axis)),
        ((X[0],), {}, np.cumsum),
        ((i32(4),), {"include_initial": True}, lambda x, include_initial: np.concatenate([[0], np.cumsum(x)])),
    ],
    "diff": [
        ((X,), {}, np.diff),
        ((X,), {"axis": 0, "n": 2}, np.diff),
        ((X,), {"n": 9}, np.diff),
        ((X,), {"prepend": Y, "append": X}, np.diff),
    ],
    "embedding": [((X, i64(2, 2, low=0, high=3)), {}, lambda x, i: x[i])],
    "erf": [((X,), {}, erf)],
    "expand_dims": [((X,), {}, lambda x: x[None]), ((X,), {"axis": (0, -1)}, np.expand_dims)],
    "flip": [((X,), {}, np.flip), ((X,), {"axis": 1}, np.flip)],
    "layer_norm": [((X, np.ones(4), np.zeros(4)), {}, lambda x, *_: normal(x.T).T)],
    "batch_norm": [((X, np.full(4, 2.0), np.ones(4)), {}, lambda x, *_: 2 * normal(x) + 1)],
    "local_response_norm": [((IMAGES,), {"size": 1, "alpha": 2.0}, lambda x, **_: x / (2 + 2 * x * x) ** 0.75)],
    "log_softmax": [((X,), {}, lambda x: np.log(softmax(x)))],
    "matmul": [
        ((X, Y.T), {}, np.matmul),
        ((X, Y[0]), {}, np.matmul),
        ((X[:, 0], Y), {}, np.matmul),
        ((X[0], Y[1]), {}, np.matmul),
        ((f64(2, 3, 4), f64(4)), {}, np.matmul),
        ((f64(3), f64(2, 3, 5)), {}, np.matmul),
    ],
    "matrix_transpose": [((f64(2, 3, 4),), {}, lambda x: np.swapaxes(x, 1, 2))],
    "max": [((X,), {"axis": (0, 1), "keepdims": True}, np.max), ((INTS,), {}, np.max)],
    "max_pool2d": [((IMAGES,), {"size": 2, "padding": "same"}, lambda x, size, padding: pooled(x, np.nanmax))],
    "mean": [((X,), {"axis": 0}, np.mean), ((X,), {"keepdims": True}, np.mean)],
    "meshgrid": [((X[0], Y[:, 0]), {}, np.meshgrid), ((X[0], Y[0], X[1]), {"indexing": "ij"}, np.meshgrid)],
    "min": [((X,), {"axis": -1}, np.min)],
    "moveaxis": [((IMAGES, 0, -1), {}, np.moveaxis), ((IMAGES, (0, 1), (2, 0)), {}, np.moveaxis)],
    "one_hot": [((i64(5, low=0, high=4), 4), {}, lambda i, n: np.eye(4, dtype=np.float32)[i])],
    "ones_like": [((INTS,), {}, np.ones_like)],
    "full_like": [((X, 3.0), {}, np.full_like)],
    "zeros_like": [((X,), {"dtype": rs.int64}, lambda x, dtype: np.zeros_like(x, np.int64))],
    "empty_like": [((X,), {}, np.zeros_like)],
    "pad": [((X,), {"widths": ((1, 0), (0, 2)), "value": 3.0}, lambda x, **_: padded(x))],
    "permute_dims": [((IMAGES, (3, 0, -2, 1)), {}, lambda x, axes: np.transpose(x, axes))],
    "prod": [((X,), {"axis": 1}, np.prod), ((i32(3),), {}, lambda x: np.prod(x, dtype=np.int64))],
    "relu": [((X,), {}, lambda x: np.maximum(x, 0))],
    "repeat": [((X, 2), {"axis": 1}, np.repeat), ((X, 3), {}, np.repeat)],
    "reshape": [((X, (2, -1)), {}, np.reshape), ((X, (-1,)), {}, np.reshape)],
    "roll": [((X, 1), {"axis": 1}, np.roll), ((X, 2), {}, np.roll), ((X, (1, -1)), {"axis": (0, 1)}, np.roll)],
    "sigmoid": [((X,), {}, sigmoid)],
    "sigmoid_cross_entropy": [((X, sigmoid(Y)), {}, lambda x, t: np.log1p(np.exp(x)) - t * x)],
    "softmax": [((X,), {}, softmax), ((X,), {"axis": 0}, lambda x, axis: softmax(x.T).T)],
    "softmax_cross_entropy": [((X, np.array([0, 3, 1])), {}, lambda x, i: -np.log(softmax(x))[np.arange(3), i])],
    "softplus": [((X,), {}, lambda x: np.log1p(np.exp(x)))],
    "split": [((X, 2), {"axis": 1}, np.split), ((X, [1, 1]), {}, np.split)],
    "squared_error": [((X, Y), {}, lambda x, y: (x - y) ** 2)],
    "squeeze": [((X[:1], 0), {}, np.squeeze)],
    "stack": [(([X, Y],), {"axis": -1}, np.stack), (([X],), {}, np.stack)],
    "std": [((X,), {"axis": 1, "correction": 1}, lambda x, axis, correction: x.std(axis, ddof=1))],
    "sum": [
        ((X,), {"axis": 1, "keepdims": True}, np.sum),
        ((i32(3, 4),), {}, lambda x: x.sum(dtype=np.int64)),
        ((f32(3, 4),), {"dtype": "float64"}, np.sum),
    ],
    "take": [((X, np.array([3, 0])), {"axis": 1}, np.take), ((X[0], [2, 2, 1]), {}, np.take)],
    "take_along_axis": [((X, i64(3, 2, low=0, high=4)), {}, lambda x, i: np.take_along_axis(x, i, -1))],
    "tensordot": [
        ((X, Y.T), {"axes": 1}, np.tensordot),
        ((X, Y), {}, np.tensordot),
        ((X, f64(2)), {"axes": 0}, np.tensordot),
        ((IMAGES, f64(3, 7, 5)), {"axes": ([1, 3], [2, 0])}, np.tensordot),
    ],
    "tile": [((X, (2, 3)), {}, np.tile), ((X, 2), {}, np.tile)],
    "tril": [((X,), {"k": 1}, np.tril)],
    "triu": [((X,), {"k": -1}, np.triu)],
    "unstack": [((X,), {"axis": 1}, lambda x, axis: list(x.T))],
    "var": [((X,), {}, np.var)],
    "vecdot": [
        ((X, Y[0]), {}, lambda x, y: x @ y),
        ((f64(3, 4, 2), X[:, :, None]), {"axis": -2}, lambda x, y, axis: (x * y).sum(1)),
    ],
    "where": [((X > 0, X, Y), {}, np.where), ((X > 0, X, 0.0), {}, np.where), ((X > 0, 1, INTS), {}, np.where)],
}

MADE = {
    "arange": [((5,), {}, np.arange), ((1, 7, 2), {"dtype": "float64"}, np.arange)],
    "empty": [(((2, 3),), {"dtype": "float64"}, np.zeros)],
    "eye": [((3, 4), {"k": 1, "dtype": "float64"}, np.eye)],
    "full": [(((2,), 3), {}, np.full)],
    "linspace": [((0.0, 1.0, 5), {"dtype": "float64"}, np.linspace)],
    "ones": [(((2, 0),), {"dtype": "float64"}, np.ones)],
    "zeros": [((3,), {"dtype": "float64"}, np.zeros)],
    "from_dlpack": [((X,), {}, np.asarray)],
}  # fmt: skip

# Not functions of values, or tested by name below or in a file of their own.
OTHER = {
    "DType", "Graph", "GraphWarning", "Node", "bfloat16", "bool", "can_cast", "constant", "conv2d", "dropout", "e", "evaluate",
    "finfo", "float32", "float64", "grad", "graph", "iinfo", "inf", "input", "int32", "int64", "isdtype", "local2d",
    "nan", "newaxis", "on", "op", "ops_of", "pi", "pick", "random", "result_type", "scope", "step", "variable",
}  # fmt: skip


def pooled(x, how):
    """2 x 2 windows, "same" padding, on images [n, 5, 6, c]."""
    wide = np.full((x.shape[0], 6, 6, x.shape[3]), np.nan)
    wide[:, :5] = x
    blocks = wide.reshape(x.shape[0], 3, 2, 3, 2, x.shape[3])
    return how(blocks, axis=(2, 4))


def flat(cases):
    return [pytest.param(name, *case, id=f"{name}{i}") for name, many in cases.items() for i, case in enumerate(many)]


def fed(value, feeds):
    """Each NumPy array becomes an input; lists of arrays too."""
    if isinstance(value, np.ndarray):
        name = f"x{len(feeds)}"
        feeds[name] = value
        return rs.input(name, value.shape, value.dtype)
    return [fed(v, feeds) for v in value] if isinstance(value, list) and isinstance(value[0], np.ndarray) else value


def same(got, want):
    if isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            same(g, w)
        return
    want = np.asarray(want)
    assert got.shape == want.shape and got.dtype == want.dtype, (got.dtype, got.shape, want.dtype, want.shape)
    rtol = 1e-5 if want.dtype == np.float32 else 1e-7
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name):
    feeds = {}
    node = getattr(rs, name)(*(fed(a, feeds) for a in ELEMENTWISE[name]))
    numpy = {"round": np.rint}.get(name) or getattr(np, name)
    same(rs.evaluate(node, feeds), numpy(*ELEMENTWISE[name]))


@pytest.mark.parametrize("name,args,keywords,reference", flat(CASES))
def test_function(name, args, keywords, reference):
    feeds = {}
    result = getattr(rs, name)(*(fed(a, feeds) for a in args), **keywords)
    got = rs.evaluate(result if isinstance(result, rs.Node) else list(result), feeds)
    wanted = {k: np.dtype(v.name) if isinstance(v, rs.DType) else v for k, v in keywords.items()}
    same(got, reference(*args, **wanted))


@pytest.mark.parametrize("name,args,keywords,reference", flat(CASES))
def test_function_of_arrays(name, args, keywords, reference):
    """NumPy arrays and lists are taken as constants."""
    if name in ("layer_norm", "batch_norm", "local_response_norm", "avg_pool2d"):
        args = (rs.constant(args[0]), *(rs.constant(a) if isinstance(a, np.ndarray) else a for a in args[1:]))
    result = getattr(rs, name)(*args, **keywords)
    assert isinstance(result, rs.Node) or all(isinstance(r, rs.Node) for r in result)


@pytest.mark.parametrize("name,args,keywords,reference", flat(MADE))
def test_creation(name, args, keywords, reference):
    same(rs.evaluate(getattr(rs, name)(*args, **keywords)), reference(*args, **keywords))


def test_every_name_is_tested():
    known = {*ELEMENTWISE, *CASES, *MADE, *OTHER}
    assert set(dsl.__all__) == known
    assert all(hasattr(rs, name) for name in rs.__all__)


# -- the standard -----------------------------------------------------------------------------------------------------
def test_namespace():
    x = rs.input("x", (2, 3))
    for version in (None, "2021.12", "2025.12"):
        xp = x.__array_namespace__(api_version=version)
        assert xp is dsl and xp.sum(x).shape == ()
    with pytest.raises(GraphError, match="1999"):
        x.__array_namespace__(api_version="1999.12")
    info = dsl.__array_namespace_info__()
    assert info.dtypes(kind="integral") == {"int32": rs.int32, "int64": rs.int64}
    assert info.default_dtypes()["real floating"] is rs.float32
    assert info.devices() == [info.default_device()] and not info.capabilities()["boolean indexing"]


def test_code_for_the_standard_builds_a_graph():
    def standardise(x):
        xp = x.__array_namespace__()
        return (x - xp.mean(x, axis=0)) / xp.std(x, axis=0)

    same(rs.evaluate(standardise(rs.input("x", (None, 4), "float64")), {"x": X}), standardise(X))


def test_dtypes():
    assert rs.isdtype(rs.float32, "real floating") and not rs.isdtype("int32", "real floating")
    assert rs.isdtype(rs.int64, ("bool", "numeric")) and rs.isdtype(rs.bool, rs.bool)
    assert not rs.isdtype(rs.int64, "unsigned integer")
    assert rs.result_type(rs.float32, X, 1) is rs.float64 and rs.result_type(rs.int32, 3) is rs.int32
    assert rs.can_cast(rs.float32, "float64") and not rs.can_cast(rs.float64, rs.float32)
    assert not rs.can_cast(rs.constant(1), rs.float64)
    assert (
        rs.finfo("float32").bits == 32 and rs.finfo(rs.bfloat16).eps == 2**-7 and rs.finfo(X).eps == np.finfo(float).eps
    )
    assert rs.iinfo(rs.constant(1)).max == 2**63 - 1
    for wrong in (
        lambda: rs.isdtype(rs.bool, "text"),
        lambda: rs.result_type(rs.float32, rs.int32),
        lambda: rs.result_type(rs.int32, 0.5),
        lambda: rs.result_type(rs.bool, 1),
        lambda: rs.result_type(1, 2),
        lambda: rs.finfo(rs.int32),
        lambda: rs.iinfo(rs.float32),
    ):
        with pytest.raises(GraphError):
            wrong()


def test_constants():
    assert (rs.pi, rs.e, rs.inf, rs.newaxis) == (np.pi, np.e, np.inf, None) and np.isnan(rs.nan)


def test_operators_and_numpy_arrays():
    x = rs.input("x", (3, 4), "float64")
    feeds = {"x": X}
    cases = [
        (x + Y, X + Y), (Y + x, Y + X), (Y - x, Y - X), (2 - x, 2 - X), (Y @ x.T, Y @ X.T), (x @ Y[0], X @ Y[0]),
        (-x, -X), (abs(x), abs(X)), (x**2, X**2), (x > Y, Y < X), (x <= 0.5, X <= 0.5), (~(x > 0), ~(X > 0)),
        (x[1:, ::-1], X[1:, ::-1]), (x[..., None, 0], X[..., None, 0]), (x[[2, 0]], X[[2, 0]]), (x.mT, X.T),
        (np.less(Y, X) & (x > 0), (Y < X) & (X > 0)),
    ]  # fmt: skip
    for node, want in cases:
        same(rs.evaluate(node, feeds), want)


# -- batch ------------------------------------------------------------------------------------------------------------
def test_a_batch_that_is_bound_later():
    x = rs.input("x", (None, 4), "float64")
    y = rs.mean(rs.matmul(x, Y.T), axis=0)
    assert str(x.type) == "f64[B, 4]" and str(y.type) == "f64[3]"
    graph = rs.graph(outputs={"y": y, "flat": rs.reshape(x, (-1,)), "t": rs.tensordot(x, Y, axes=([1], [1]))})
    assert str(graph.outputs["flat"].type) == "f64[4B]" and not graph.bound
    for batch in (1, 3):
        assert graph.bind(batch=batch).bound
        got = rs.evaluate(graph, {"x": X[:batch]})
        same(got["y"], (X[:batch] @ Y.T).mean(0))
        same(got["t"], X[:batch] @ Y.T)
    same(rs.evaluate(x * 2, {"x": X.tolist()}), X * 2)
    for feeds in ({"x": X[:, :2]}, {"x": X[0]}, {}, {"x": [["a"]]}, {"x": X.astype(np.float32)}):
        with pytest.raises(DataError):
            rs.evaluate(graph, feeds)
    with pytest.raises(DataError, match="batch axis B is not known"):
        rs.evaluate(rs.zeros((None, 2)))


# -- errors -----------------------------------------------------------------------------------------------------------
X32, LINE = rs.input("x", (3, 4)), inspect.currentframe().f_lineno


@pytest.mark.parametrize(
    "make,error,message",
    [
        (lambda: bool(X32), GraphError, "truth"),
        (lambda: np.asarray(X32), GraphError, "has no value yet"),
        (lambda: rs.matmul(X32, X32), ShapeError, "axis k is 4"),
        (lambda: rs.matmul(X32, rs.constant(1.0)), ShapeError, "vectors and matrices"),
        (lambda: X32 + rs.zeros((5,)), ShapeError, "do not broadcast"),
        (lambda: X32 + rs.zeros((4,), "int32"), DTypeError, "no common type"),
        (lambda: rs.sum(X32, axis=2), ShapeError, "no axis 2"),
        (lambda: rs.where(X32 > 0, rs.zeros((4,), "int64"), 0.5), DTypeError, "does not fit i64"),
        (lambda: rs.where(X32, X32, X32), DTypeError, "condition"),
        (lambda: rs.concat(X32), GraphError, "takes a list"),
        (lambda: rs.stack([]), GraphError, "at least one"),
        (lambda: rs.vecdot(X32, X32, axis=0), ShapeError, "vectors"),
        (lambda: rs.tensordot(X32, X32, axes=1), ShapeError, "pair off"),
        (lambda: rs.tensordot(X32, X32, axes=([5], [0])), ShapeError, "no axis 5"),
        (lambda: rs.meshgrid(X32), ShapeError, "1-D"),
        (lambda: rs.cumulative_sum(X32), ShapeError, "axis= must name one"),
        (lambda: rs.diff(rs.input("b", (None,))), ShapeError, "batch axis"),
        (lambda: rs.broadcast_arrays(X32, rs.zeros((3,))), ShapeError, "do not broadcast"),
        (lambda: rs.exp(rs.constant(1)), DTypeError, "takes float"),
        (lambda: rs.add(1, 2), DTypeError, "no element type"),
        (lambda: rs.grad(X32, X32), GraphError, "one float number"),
        (lambda: rs.grad(rs.sum(X32), [3]), GraphError, "takes nodes"),
        (lambda: rs.evaluate("x"), GraphError, "a node, a list of nodes or a graph"),
        (lambda: rs.input("x", (3, -1)), ShapeError, "whole number"),
        (lambda: rs.variable("w", (None, 2)), GraphError, "batch axis"),
        (lambda: rs.astype(X32, "float16"), DTypeError, "float16"),
    ],
)
def test_errors_name_the_users_line(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make()
    # An error of a value that cannot be used so names the line of the value; others name the line of the call.
    of_value = message in ("truth", "has no value yet", "one float number")
    line = LINE if of_value else make.__code__.co_firstlineno
    assert caught.value.detail["built at"].endswith(f"test_dsl.py:{line}")


def test_every_error_is_one_of_ours():
    """Wrong arguments of every function give errors of the one tree, with a line of the user's."""
    bad = rs.input("bad", (2, 3), "bool")
    for name in [*ELEMENTWISE, *CASES]:
        function = getattr(rs, name)
        for arguments in ((bad, bad, bad, bad, bad), (bad,) * 7):
            try:
                function(*arguments)
            except (RainshedError, TypeError) as error:
                if isinstance(function, Op):
                    assert isinstance(error, RainshedError) and "test_dsl.py" in error.detail["built at"]


# -- leaves, scopes, graphs -------------------------------------------------------------------------------------------
def test_scopes_name_variables():
    with rs.scope("tower"), rs.scope("top"):
        w = rs.variable("w", (2, 3), init=rs.init.ones())
        x = rs.input("x", (2, 3))
    assert w.name == "tower/top/w" and x.name == "x" and w.origin.scope == "tower/top"
    with rs.on("m1"):
        assert (w + x).origin.pin == "m1"
    same(rs.evaluate([w, rs.step()], step=3), [np.ones((2, 3), np.float32), np.int64(3)])
    same(rs.evaluate(w, variables={"tower/top/w": f32(2, 3)}), f32(2, 3))


def test_gradients():
    w = rs.variable("w", (4,), "float64", init=X[0])
    x = rs.input("x", (None, 4), "float64")
    loss = rs.mean(rs.square(x @ w))
    dw, dx = rs.evaluate(rs.grad(loss, [w, x]), {"x": Y})
    same(dw, 2 / 3 * Y.T @ (Y @ X[0]))
    same(dx, 2 / 3 * np.outer(Y @ X[0], X[0]))
    same(rs.evaluate(rs.grad(loss, w), {"x": Y}), dw)


def test_random_values_and_dropout():
    noise = rs.random.normal((None, 50), name="noise")
    x = rs.input("x", (None, 50))
    graph = rs.graph(outputs={"n": noise + x, "d": rs.dropout(x, 0.5, name="drop")})
    feeds = {"x": np.ones((40, 50), np.float32)}
    first, again, later = (rs.evaluate(graph, feeds, step=step) for step in (0, 0, 1))
    same(again["n"], first["n"])
    assert (later["n"] != first["n"]).all() and 0.4 < (first["d"] > 0).mean() < 0.6 and first["d"].max() == 2


def test_graph():
    x, t = rs.input("x", (None, 2)), rs.input("t", (None, 3))
    w = rs.variable("w", (2, 3), init=rs.init.normal())
    seen = rs.variable("seen", (), "int64", trainable=False)
    loss = rs.mean(rs.squared_error(x @ w, t))
    graph = rs.graph(loss=loss, outputs={"y": x @ w}, updates={"seen": seen + 1}, optimizer=rs.SGD(0.1))
    assert graph.loss == "loss" and list(graph.outputs) == ["loss", "y"] and graph.rule.name == "sgd"
    assert set(graph.inputs) == {"x", "t"} and set(graph.variables) == {"w", "seen"}


def test_graph_errors():
    x = rs.input("x", (None, 2))
    loss = rs.mean(x)
    v, other = rs.variable("v", (2,)), rs.variable("v", (2,))

    def noise():
        return rs.random.normal((None, 2), name="noise")

    cases = [
        (lambda: rs.graph(), "needs a loss"),
        (lambda: rs.graph(loss=x), "one float number"),
        (lambda: rs.graph(loss=3.0), "one float number; found float"),
        (lambda: rs.graph(loss=rs.sum(rs.constant([1]))), "one float number"),
        (lambda: rs.graph(loss=loss, outputs={"loss": loss}), "named twice"),
        (lambda: rs.graph(outputs={"grad/w": x}), "those of gradients"),
        (lambda: rs.graph(outputs={"a=b": x}), "without quotes"),
        (lambda: rs.graph(outputs={"y": 3}), "is a node; found int"),
        (lambda: rs.graph(outputs={"y": x}, optimizer=rs.SGD(0.1)), "needs a loss"),
        (lambda: rs.graph(loss=loss, optimizer="sgd"), "optimizer is one of"),
        (lambda: rs.graph(outputs={"y": v + other}), "two variables have the name 'v'"),
        (lambda: rs.graph(outputs={"y": x + rs.variable("x", (2,))}), "an input and a variable have the name 'x'"),
        (lambda: rs.graph(outputs={"y": x}, updates={"z": x}), "no variable"),
        (lambda: rs.graph(outputs={"y": v}, updates={"v": rs.zeros((3,))}), "the update of 'v' is f32"),
        (lambda: rs.graph(loss=rs.mean(v), updates={"v": v * 2}), "is trained too"),
        (lambda: rs.graph(outputs={"y": noise(), "z": noise()}), "would be equal"),
        (lambda: rs.evaluate([v, other]), "two variables"),
    ]
    for make, message in cases:
        with pytest.raises(GraphError, match=message):
            make()


def test_a_variable_that_is_not_trained_is_noted():
    v, w = rs.variable("v", (2,)), rs.variable("w", (2,))
    with pytest.warns(rs.GraphWarning, match="does not depend on variable 'w'"):
        rs.graph(loss=rs.mean(v), outputs={"w": w})


@pytest.mark.parametrize(
    "build",
    [
        lambda a, b: rs.where(a == b, 1.0, b),
        lambda a, b: rs.where(a == 0, 1.0, b),
        lambda a, b: rs.mean(rs.astype(a == b, "float32")),
        lambda a, b: rs.sum(a != b),
        lambda a, b: rs.any(a == b),
        lambda a, b: a * (a == b),
        lambda a, b: (a != 0) + b,
    ],
)
def test_what_comparing_nodes_as_objects_gives_is_no_array(build):
    """Nodes are keys, so that == tells whether two are one. An accuracy would be 0 without a word."""
    with pytest.raises(RainshedError) as caught:
        build(rs.input("a", (3,)), rs.input("b", (3,)))
    assert "not_equal(a, b)" in str(caught.value)

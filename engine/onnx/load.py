"""From an ONNX file to a graph."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from rainshed.engine.graph import graph as make_graph
from rainshed.engine.onnx import convolution, elementwise, products, recurrent, reduce, shape
from rainshed.engine.onnx.call import NUMPY_TYPES, Call, Converter, Result, Unsupported, Weights
from rainshed.engine.onnx.elementwise import dtype_named
from rainshed.engine.onnx.values import Known, Tensor, Value, identity
from rainshed.ops.errors import DataError, DTypeError, GraphError, RainshedError, UnsupportedError, UsageError
from rainshed.ops.evaluate import evaluate_nodes
from rainshed.ops.ir import Graph, Node, Origin, current_origin, on_behalf, walk
from rainshed.ops.source import input
from rainshed.ops.types import Batch

CONVERTERS: Mapping[str, Converter] = MappingProxyType(
    {
        **elementwise.TABLE,
        **shape.TABLE,
        **reduce.TABLE,
        **products.TABLE,
        **convolution.TABLE,
        **recurrent.TABLE,
    }
)
FIRST_OPSET = 9
DOMAINS = ("", "ai.onnx")
OPEN = "open"


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file holds.

    graph    predicts: the file's outputs from its inputs, both in the file's shapes
    inputs, outputs  name in the file -> node, of what is read at all. A loss, further layers or other outputs are built from these:
             `rs.graph(loss=rs.mean(rs.square(model.outputs["y"])))`
    weights  name of a variable -> (its shape in the file, what was done to it): images are channels-last inside, so filters
             [out, in, height, width] are the variable [height, width, in, out]
    """

    graph: Graph
    inputs: Mapping[str, Node]
    outputs: Mapping[str, Node]
    weights: Mapping[str, tuple[tuple[int, ...], tuple[tuple[str, tuple[int, ...]], ...]]]

    def variable(self, name: str, values: Any) -> np.ndarray:
        """Values of a weight, in its shape in the file, as those of the variable: for `session.set_variables`."""
        if name not in self.weights:
            raise DataError(f"no variable came from a weight {name!r}", known=", ".join(self.weights))
        base, steps = self.weights[name]
        array = np.asarray(values)
        if array.shape != base:
            raise DataError(f"the weight {name!r} has the shape {list(base)} in the file; found {list(array.shape)}")
        for kind, how in steps:
            array = array.reshape(how) if kind == "reshape" else array.transpose(how)
        return np.asarray(array, order="C")


def load(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    batch: int | str | None = None,
    outputs: Sequence[str] | None = None,
) -> Imported:
    """The graph of an ONNX model: its path, its bytes or the model itself.

    Weights become variables of the same names, and are trained, save the running statistics of batch normalisation. What
    depends on constants alone is computed now. Nodes have the scopes that their names in the file give, and stand for
    "lines" of it: `model.onnx:12` is its node number 12, counted from 1. Dropout is left out: the graph predicts.

    batch    None: the axes have the file's sizes, and a first axis with a name in place of a number is the batch axis B;
             a number: the first axis of every input is this long; "open": it is B, until `graph.bind(batch=...)`
    outputs  names of values that the graph gives in place of the file's outputs, for instance the features before a classifier
    Raises   UnsupportedError, which lists every operator that Rainshed does not have, with the names of its nodes;
             DataError for what is no ONNX file, or one that names values that do not exist; ShapeError, DTypeError
    Source   github.com/onnx/onnx/blob/main/docs/Operators.md; versions ("opsets") from 9
    """
    if not (batch is None or batch == OPEN or (isinstance(batch, int) and not isinstance(batch, bool) and batch > 0)):
        raise UsageError(f'batch is a number from 1 up, "open" or None; found {batch!r}')
    proto, file = _read(model)
    where = current_origin()
    return _Import(proto, Origin(file, 0, where.scope, where.pin), batch).run(outputs)


def _read(model: Any) -> tuple[onnx.ModelProto, str]:
    """The model, and the name of its file."""
    if isinstance(model, onnx.ModelProto):
        return model, model.graph.name or "onnx model"
    try:
        if isinstance(model, bytes):
            proto, file = onnx.load_model_from_string(model), "onnx model"
        else:
            proto, file = onnx.load(os.fspath(model)), Path(model).name
    except FileNotFoundError as error:
        raise DataError(f"there is no file {error.filename or model}") from None
    except Exception as error:  # protobuf's and onnx's own errors have no common class
        raise DataError(
            f"this is no ONNX model: {error}", file=model if not isinstance(model, bytes) else None
        ) from None
    if not proto.graph.node:
        raise DataError("this is no ONNX model: it has no nodes", file=file)
    return proto, file


@dataclass(slots=True)
class _Import:
    """One import under way."""

    proto: onnx.ModelProto
    origin: Origin
    batch: int | str | None
    values: dict[str, Value | None] = field(default_factory=dict)  # None: could not be made
    weights: Weights = field(default_factory=Weights)
    turned: dict[Any, Node] = field(default_factory=dict)
    lacking: dict[str, list[str]] = field(default_factory=dict)  # what is unsupported -> names of nodes
    sizes: tuple[int, int | Batch] | None = None  # the batch in the file, and the one asked for
    names: _Names = field(default_factory=lambda: _Names())

    def run(self, outputs: Sequence[str] | None) -> Imported:
        wanted = list(outputs) if outputs is not None else [value.name for value in self.proto.graph.output]
        if not wanted:
            raise UsageError("outputs names no value")
        opset = self._opset()
        needed = self._needed(wanted)
        self._initial(needed)
        inputs = self._inputs(needed)
        for number, node in enumerate(self.proto.graph.node, 1):
            if needed & set(node.output):
                self._node(number, node, opset, needed)
        if self.lacking:
            raise UnsupportedError(self._report())
        with on_behalf(self.origin):
            results = {name: self._result(name) for name in wanted}
            named = _Names("='#")
            made = make_graph(outputs={named.of(name): node for name, node in results.items()})
        weights = {node.name: (known.base, known.steps) for node, known in self.weights.made.values()}
        return Imported(made, inputs, results, weights)

    def _opset(self) -> int:
        opset = max((o.version for o in self.proto.opset_import if o.domain in DOMAINS), default=1)
        if opset < FIRST_OPSET:
            hint = "onnx.version_converter.convert_version brings a model to a later one"
            raise UnsupportedError(
                f"{self.origin.file} is of opset {opset}; known are {FIRST_OPSET} and later", hint=hint
            )
        return opset

    # -- values -------------------------------------------------------------------------------------------------------
    def _needed(self, wanted: Sequence[str]) -> set[str]:
        """The names of all values that the outputs depend on. Raises DataError for one that nothing gives."""
        makers = {name: node for node in self.proto.graph.node for name in node.output if name}
        given = {v.name for v in self.proto.graph.input} | {t.name for t in self.proto.graph.initializer}
        needed: set[str] = set()
        stack = list(wanted)
        while stack:
            name = stack.pop()
            if name in needed or not name:
                continue
            needed.add(name)
            if name in makers:
                stack += makers[name].input
            elif name not in given:
                raise DataError(f"{self.origin.file}: no node gives the value {name!r}")
        return needed

    def _initial(self, needed: set[str]) -> None:
        if any(s.values.name in needed for s in self.proto.graph.sparse_initializer):
            self._lacks("sparse initial values", "the graph")
        for tensor in self.proto.graph.initializer:
            if tensor.name in needed:
                array = self._array(tensor)
                self.values[tensor.name] = (
                    None if array is None else Known.of(array, self.names.of(tensor.name), stored=True)
                )

    def _array(self, tensor: onnx.TensorProto) -> np.ndarray | None:
        try:
            array = numpy_helper.to_array(tensor)
        except Exception as error:  # the values may be missing, cut short, or in a file that is not there
            raise DataError(f"{self.origin.file}: the values of {tensor.name!r} cannot be read: {error}") from None
        if array.dtype not in NUMPY_TYPES:
            self._lacks(f"element type {onnx.TensorProto.DataType.Name(tensor.data_type)}", tensor.name)
            return None
        return array

    def _inputs(self, needed: set[str]) -> dict[str, Node]:
        """The inputs that the outputs depend on; an initial value is none, though old files name it so too."""
        found: dict[str, Node] = {}
        for value in self.proto.graph.input:
            name = value.name
            if name in self.values or name not in needed:
                continue
            self.values[name] = None
            try:
                if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
                    raise Unsupported("an input without a shape")
                dtype = dtype_named(value.type.tensor_type.elem_type)
                with on_behalf(self.origin):
                    found[name] = input(self.names.of(name), self._sizes(value.type.tensor_type.shape.dim), dtype)
                self.values[name] = Tensor.plain(found[name])
            except Unsupported as error:
                self._lacks(str(error), name)
        return found

    def _sizes(self, dims: Any) -> tuple[int | None, ...]:
        sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
        if sizes and self.batch is not None:
            asked: int | Batch = Batch() if isinstance(self.batch, str) else self.batch
            if sizes[0] is not None:
                self.sizes = sizes[0], asked
            sizes[0] = None if isinstance(asked, Batch) else asked
        if None in sizes[1:]:
            raise Unsupported("an input with an open axis other than the first")
        return tuple(sizes)

    def _result(self, name: str) -> Node:
        value = self.values[name]
        assert value is not None
        if isinstance(value, Known):
            return self.weights.node(value)
        return value.in_order(identity(len(value.order)))

    # -- nodes --------------------------------------------------------------------------------------------------------
    def _node(self, number: int, node: onnx.NodeProto, opset: int, needed: set[str]) -> None:
        label = node.name or (node.output[0] if node.output else f"node {number}")
        for name in node.output:
            if name:
                self.values[name] = None
        convert = CONVERTERS.get(node.op_type) if node.domain in DOMAINS else None
        if convert is None:
            self._lacks(f"{node.domain}.{node.op_type}".lstrip("."), label)
            return
        scope = "/".join(part for part in (self.origin.scope, _clean(label).strip("/")) if part)
        origin = Origin(self.origin.file, number, scope, self.origin.pin)
        try:
            attrs = {a.name: self._attribute(a) for a in node.attribute}
            inputs = [self._input(name) for name in node.input]
            if any(value is None and name for value, name in zip(inputs, node.input, strict=True)):
                return  # what it needs is in the list already
            last = max(i for i, name in enumerate(node.output, 1) if name in needed)
            call = Call(
                self.names.of(node.output[0]),
                opset,
                tuple(inputs),
                attrs,
                last,
                len(node.output),
                self.weights,
                self.sizes,
                self.turned,
            )
            with on_behalf(origin):
                result = self._folded(call, convert(call))
            if call.unread():
                raise Unsupported(f"attribute {', '.join(call.unread())}")
        except Unsupported as error:
            self._lacks(f"{node.op_type}: {error}", label)
        except DTypeError as error:
            self._lacks(f"{node.op_type}: {error.message}", label)
        except RainshedError as error:
            detail = {**error.detail, "node": f"{label} ({node.op_type})", "built_at": origin}
            raise type(error)(error.message, **detail) from None
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            # A converter that meets an input or attribute of a kind it does not know; what it says is all that is known.
            what = f"{node.op_type}: does not take these inputs or attributes: {error}"
            raise GraphError(what, node=f"{label} ({node.op_type})", built_at=origin) from error
        else:
            many = result if isinstance(result, tuple) else (result,)
            if len(many) < last:
                raise GraphError(
                    f"{node.op_type} has {len(many)} results; {last} are read", node=label, built_at=origin
                )
            self.values.update(zip((name for name in node.output), many, strict=False))

    def _input(self, name: str) -> Value | None:
        if name and name not in self.values:
            raise DataError(f"the value {name!r} is read before a node gives it")
        return self.values.get(name)

    def _attribute(self, attribute: onnx.AttributeProto) -> Any:
        if attribute.type == onnx.AttributeProto.TENSOR:
            array = self._array(attribute.t)
            if array is None:
                raise Unsupported(f"element type of {attribute.name}")
            return array
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            raise Unsupported("a graph inside a node")
        return onnx.helper.get_attribute_value(attribute)

    def _folded(self, call: Call, result: Result) -> Result:
        """The result, known where it depends on constants alone."""
        if any(isinstance(v, Tensor) or (v is not None and v.weight) for v in call.inputs):
            return result
        many = result if isinstance(result, tuple) else (result,)
        nodes = [v.in_order(identity(len(v.order))) for v in many if isinstance(v, Tensor)]
        if not nodes or any(leaf.op.name in ("input", "variable", "step") for leaf in walk(nodes)):
            return result
        arrays = iter(evaluate_nodes(nodes, {}))
        names = (call.output if i == 0 else f"{call.output}/{i}" for i in range(len(many)))
        folded: tuple[Value | None, ...] = tuple(
            Known.of(next(arrays), name) if isinstance(v, Tensor) else v for v, name in zip(many, names, strict=True)
        )
        return folded if isinstance(result, tuple) or folded[0] is None else folded[0]

    def _report(self) -> str:
        """What is unsupported, one to a line, with up to eight of its nodes."""
        many = sum(map(len, self.lacking.values()))
        lines = [f"{self.origin.file}: Rainshed lacks what {many} {'nodes need' if many > 1 else 'node needs'}"]
        for what, names in self.lacking.items():
            more = f", and {len(names) - 8} more" if len(names) > 8 else ""
            lines.append(f"  {what}: {', '.join(names[:8])}{more}")
        return "\n".join(lines)

    def _lacks(self, what: str, name: str) -> None:
        self.lacking.setdefault(what, []).append(name)


@dataclass(slots=True)
class _Names:
    """Names that graphs can hold: another one for each name of the file, though two may differ in what is left out."""

    also: str = ""  # characters that are left out besides
    made: dict[str, str] = field(default_factory=dict)  # a name of ours -> the file's

    def of(self, name: str) -> str:
        ours = _clean(name, self.also)
        while self.made.setdefault(ours, name) != name:
            ours += "_"
        return ours


def _clean(name: str, also: str = "") -> str:
    """A name that graphs can hold."""
    return "".join("_" if c in "\"'\n{}" + also else c for c in name.strip()) or "_"

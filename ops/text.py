"""The text form of a graph, and its parser. Used by `--show`, by errors, by tests, and to send update rules to servers.

    graph {
      %0 = input() {name="x", shape=[B, 4], dtype=f32, offset=None} : f32[B, 4]
      %1 = variable() {name="w", ...} : f32[4, 3] @ worker1/cpu
      %2 = matmul(%0, %1) : f32[B, 3]
      output loss = %2
      update w = %1
    }

Attributes that have their default value are left out. `# ...` is a comment: the line the user wrote stands there.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from rainshed.ops.errors import ParseError, RainshedError
from rainshed.ops.init import Init
from rainshed.ops.ir import Device, Graph, Node, Origin
from rainshed.ops.op import REQUIRED, Op
from rainshed.ops.types import DTYPES, Batch, DType, numpy_dtype

INLINE = 16  # arrays up to this many elements are printed as lists, larger ones in base64


def node_names(graph: Graph) -> dict[Node, str]:
    return {node: f"%{i}" for i, node in enumerate(graph.nodes())}


def graph_text(graph: Graph, *, origins: bool = False) -> str:
    """The graph, one node to a line, inputs before users."""
    names = node_names(graph)
    lines = [f"  {line_of(node, names, origins=origins)}" for node in names]
    lines += [f"  output {name} = {names[node]}" for name, node in graph.outputs.items()]
    lines += [f"  update {name} = {names[node]}" for name, node in graph.updates.items()]
    lines += [f"  keep {names[node]}" for node in graph.kept]
    if graph.loss is not None:
        lines.append(f"  loss {graph.loss}")
    return "\n".join(["graph {", *lines, "}"])


def line_of(node: Node, names: Mapping[Node, str], *, origins: bool = False) -> str:
    inputs = ", ".join(names[i] for i in node.inputs)
    shown = [(k, v) for k, v in node.attrs.items() if not _is_default(node.op.attrs.get(k, REQUIRED), v)]
    attrs = " {" + ", ".join(f"{k}={attr_text(v)}" for k, v in shown) + "}" if shown else ""
    device = f" @ {node.device}" if node.device else ""
    line = f"{names[node]} = {node.op.name}({inputs}){attrs} : {node.type}{device}"
    if origins and (node.origin.file or node.origin.scope):
        line += f"  # {node.origin.scope} {node.origin}".replace("#  ", "# ")
    return line


def _is_default(default: Any, value: Any) -> bool:
    return default is not REQUIRED and type(default) is type(value) and bool(default == value)


def attr_text(value: Any) -> str:
    """One attribute value as text that `parse` reads back."""
    if isinstance(value, np.ndarray):
        return _array_text(value)
    if isinstance(value, Init):
        if value.values is not None:
            return f"init array {_array_text(value.values)}"
        return f"init {value.kind} {attr_text(value.numbers)}"
    if isinstance(value, (DType, Batch)):
        return str(value)
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r") + '"'
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(attr_text(v) for v in value) + "]"
    if isinstance(value, np.generic):
        return attr_text(value.item())
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    raise ParseError(f"an attribute of type {type(value).__name__} has no text form: {value!r}")


def _array_text(array: np.ndarray) -> str:
    name, shape = array.dtype.name, attr_text(tuple(int(n) for n in array.shape))
    if array.size <= INLINE:
        return f"array {name} {shape} {attr_text(tuple(array.ravel().tolist()))}"
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return f'array {name} {shape} "{base64.b64encode(little.tobytes()).decode()}"'


_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<number>[-+]?(?:nan|inf|\d+\.?\d*(?:e[-+]?\d+)?|\.\d+)(?![\w%]))"""
    r"""|(?P<batch>\d*B)(?!\w)|(?P<word>[A-Za-z_][\w./-]*)|(?P<value>%\d+)|(?P<mark>[\[\]{}(),=:@]))""",
    re.VERBOSE,
)
_END = re.compile(r"\s*(#|\Z)")
_ARRAYS = {
    "bfloat16",
    "float32",
    "float64",
    "int32",
    "int64",
    "bool",
    "uint8",
    "int8",
    "int16",
    "uint16",
    "uint32",
    "uint64",
}


_ESCAPED = {"n": "\n", "r": "\r"}
MAX_DEPTH, MAX_DIGITS = 16, 400  # of nested lists and of one number: a text from a wire must not exhaust the reader


class _Reader:
    """The tokens of one line."""

    def __init__(self, line: str, number: int) -> None:
        self.line, self.number, self.at = line, number, 0
        self.kind, self.text = "", ""
        self.depth = 0
        self.next()

    def next(self) -> None:
        if _END.match(self.line, self.at):
            self.kind, self.text = "end", ""
            return
        match = _TOKEN.match(self.line, self.at)
        if match is None or match.lastgroup is None:
            raise self.wrong("cannot read this")
        self.kind, self.text, self.at = match.lastgroup, match.group(match.lastgroup), match.end()

    def wrong(self, what: str) -> ParseError:
        return ParseError(f"line {self.number}: {what}", line=self.line.strip()[:200], at_column=self.at)

    def take(self, kind: str, text: str | None = None) -> str:
        if self.kind != kind or (text is not None and self.text != text):
            raise self.wrong(f"expected {text or kind}, found {self.text or 'the end of the line'!r}")
        found = self.text
        self.next()
        return found

    def accept(self, mark: str) -> bool:
        if self.kind == "mark" and self.text == mark:
            self.next()
            return True
        return False

    def values(self, close: str) -> list[Any]:
        found: list[Any] = []
        while not self.accept(close):
            if found:
                self.take("mark", ",")
            found.append(self.value())
        return found

    def value(self) -> Any:
        kind, text = self.kind, self.text
        if self.accept("["):
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise self.wrong(f"lists are nested deeper than {MAX_DEPTH}")
            found = tuple(self.values("]"))
            self.depth -= 1
            return found
        if kind in ("number", "batch") and len(text) > MAX_DIGITS:
            raise self.wrong(f"a number has more than {MAX_DIGITS} digits")
        self.next()
        if kind == "string":
            return re.sub(r"\\(.)", lambda m: _ESCAPED.get(m[1], m[1]), text[1:-1])
        if kind == "number":
            return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
        if kind == "batch":
            times = int(text[:-1] or 1)
            if times == 0:
                raise self.wrong("0B is not a size")
            return Batch(times)
        if kind == "word":
            return self.word(text)
        raise self.wrong(f"expected a value, found {text or 'the end of the line'!r}")

    def word(self, text: str) -> Any:
        constants = {"None": None, "True": True, "False": False, **{d.short: d for d in DTYPES}}
        if text in constants:
            return constants[text]
        if text in ("inf", "nan"):
            return float(text)
        if text == "array":
            return self.array()
        if text == "init":
            kind = self.take("word")
            if kind == "array":
                return Init("array", (), self.array())
            numbers = self.value()
            if not isinstance(numbers, tuple) or not all(isinstance(n, (int, float)) for n in numbers):
                raise self.wrong(f"an initialiser has a list of numbers, found {numbers!r}")
            return Init(kind, tuple(float(n) for n in numbers))
        raise self.wrong(f"{text!r} is not a value")

    def array(self) -> np.ndarray:
        if self.kind == "word" and self.text == "array":
            self.next()
        name = self.take("word")
        if name not in _ARRAYS:
            raise self.wrong(f"{name!r} is not an element type")
        shape, data = self.value(), self.value()
        try:
            if isinstance(data, str):
                dtype = numpy_dtype(name)
                array = np.frombuffer(base64.b64decode(data, validate=True), dtype.newbyteorder("<")).astype(dtype)
            else:
                array = np.array(data, numpy_dtype(name))
            array = array.reshape(shape)
        except (ValueError, TypeError, OverflowError) as error:
            raise self.wrong(f"bad array: {error}") from None
        array.flags.writeable = False
        return array


SHORT = 256  # characters: attributes up to this are remembered, since tiles of one op have many in common


def parse_attr(text: str) -> Any:
    """The attribute value that `attr_text` printed. Raises ParseError."""
    return _remembered(text) if len(text) <= SHORT else _parsed(text)


@lru_cache(maxsize=8192)
def _remembered(text: str) -> Any:
    return _parsed(text)  # no value of an attribute can be changed


def _parsed(text: str) -> Any:
    reader = _Reader(text, 1)
    value = reader.value()
    if reader.kind != "end":
        raise reader.wrong("one value is expected, and nothing behind it")
    return value


def parse(text: str, ops: Mapping[str, Op]) -> Graph:
    """The graph that `graph_text` printed; `ops` are the ops it may use. Raises ParseError with the line."""
    nodes: dict[str, Node] = {}
    outputs: dict[str, Node] = {}
    updates: dict[str, Node] = {}
    kept: list[Node] = []
    loss: str | None = None
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.split("#")[0].strip()]
    if not lines or lines[0][1].strip() != "graph {" or lines[-1][1].strip() != "}":
        raise ParseError("a graph's text starts with 'graph {' and ends with '}'")
    for number, line in lines[1:-1]:
        reader = _Reader(line, number)
        if reader.kind == "value":
            name = reader.text
            if name in nodes:
                raise reader.wrong(f"{name} is defined twice")
            nodes[name] = _node(reader, nodes, ops)
        elif reader.text in ("output", "update"):
            target = outputs if reader.text == "output" else updates
            key = line.strip().removeprefix(reader.text).rsplit("=", 1)[0].strip()
            value = line.rsplit("=", 1)[-1].split("#")[0].strip()
            if value not in nodes or not key or key in target:
                raise reader.wrong(f"{value} is not defined, or {key!r} is named twice")
            target[key] = nodes[value]
        elif reader.text == "keep":
            reader.next()
            if reader.text not in nodes:
                raise reader.wrong(f"{reader.text} is not defined")
            kept.append(nodes[reader.text])
        elif reader.text == "loss":
            loss = line.strip().removeprefix("loss").strip()
        else:
            raise reader.wrong("a line defines a %value, an output, an update, what is kept or the loss")
    if loss is not None and loss not in outputs and f"{loss}@0" not in outputs:  # `split` numbers the pieces
        raise ParseError(f"the loss {loss!r} is not an output")
    return Graph(outputs=outputs, updates=updates, loss=loss, kept=tuple(kept))


def _node(reader: _Reader, nodes: Mapping[str, Node], ops: Mapping[str, Op]) -> Node:
    reader.take("value")
    reader.take("mark", "=")
    name = reader.take("word")
    if name not in ops:
        raise reader.wrong(f"there is no op {name!r}")
    reader.take("mark", "(")
    inputs: list[Node] = []
    while not reader.accept(")"):
        if inputs:
            reader.take("mark", ",")
        value = reader.take("value")
        if value not in nodes:
            raise reader.wrong(f"{value} is used before it is defined")
        inputs.append(nodes[value])
    attrs: dict[str, Any] = {}
    if reader.accept("{"):
        while not reader.accept("}"):
            if attrs:
                reader.take("mark", ",")
            key = reader.take("word")
            reader.take("mark", "=")
            attrs[key] = reader.value()
    try:
        node = ops[name].make(tuple(inputs), MappingProxyType(attrs), Origin())
    except RainshedError as error:
        raise ParseError(f"line {reader.number}: {error.message}", line=reader.line.strip()[:200]) from None
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        # The text may come from anywhere; an op, also one of the user's own, may not have foreseen each attribute.
        raise reader.wrong(f"{name} does not take these attributes: {type(error).__name__}: {error}") from None
    reader.take("mark", ":")
    given = reader.line[reader.at - len(reader.text) :].split("#")[0]
    written, _, device = given.partition("@")
    if written.strip() != str(node.type):
        raise reader.wrong(f"the type is written {written.strip()}, but is {node.type}")
    return node.at(Device.parse(device.strip())) if device.strip() else node

"""From Python functions to LLVM's language by Numba, which goes no further: machine code is made of it once, for the cache on disk.

Numba is loaded with this module, so it is imported when the first kernel must be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numba
import numba.core.codegen
import numba.core.compiler
import numba.core.compiler_lock
import numba.core.registry
import numba.np.arrayobj
from llvmlite import ir  # type: ignore[import-untyped]

from rainshed.ops.array_kernel import Form, array_of

# Numba's annotations do not know signatures, nor what is inside it.
types: Any = numba.types
core: Any = numba.core
populate_array: Any = numba.np.arrayobj.populate_array

ENTRY: Final = "rainshed_entry"
ELEMENTS: Final = {
    "f32": types.float32,
    "f64": types.float64,
    "i32": types.int32,
    "i64": types.int64,
    "bool": types.boolean,
    **{f"u{bits}": getattr(types, f"uint{bits}") for bits in (8, 16, 32, 64)},  # words of bits
}
Enter = Callable[[Any, Any, Any], list[Any]]  # context, builder, arguments of the entry: those of the function


class _Library(core.codegen.JITCodeLibrary):  # type: ignore[misc]
    """Code that is optimised as a whole, as all that Numba compiles, but not given to Numba's own engine."""

    def _optimize_functions(self, module: Any) -> None:
        """Not one by one before that, which takes as long again and changes no kernel's speed."""

    def _finalize_final_module(self) -> None:
        self._finalized = True

    def address_of(self, name: str) -> int:
        """After all: by Numba's engine."""
        super()._finalize_final_module()
        return int(self.get_pointer_to_function(name))


@dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """A kernel in LLVM's language, optimised: its C function `entry`, and what that calls."""

    library: Any

    entry: str = ENTRY

    def text(self) -> str:
        return str(self.library.get_llvm_str())

    def address(self) -> int:
        """Of the function as Numba links it, which can give it what no object file can; holds as long as this object."""
        return int(self.library.address_of(self.entry))


def lowered_kernel(function: Callable[..., Any], signature: Any) -> Lowered:
    """A function of numbers and addresses that gives a whole number: 1 where it raises an error."""
    return _lowered(function, signature.args, signature.args, lambda context, builder, args: list(args))


def lowered_of_form(function: Callable[..., Any], form: Form) -> Lowered:
    """A function of what `form` declares, which stands behind one address; gives 0, or 1 where it raises an error."""
    wanted = tuple(_type_of(part) for part in form)

    def enter(context: Any, builder: Any, args: Any) -> list[Any]:
        numbers = _numbers(builder, args[0])
        return [_value(context, builder, kind, numbers) for kind in wanted]

    return _lowered(function, wanted, (types.CPointer(types.int64),), enter)


def _lowered(function: Callable[..., Any], wanted: tuple[Any, ...], given: tuple[Any, ...], enter: Enter) -> Lowered:
    """The function for the types `wanted`, and an entry for the types `given`."""
    target = core.registry.cpu_target
    context, flags = target.target_context, core.compiler.Flags()
    # Arrays are borrowed: without counts of references there is less to compile, and nothing that needs Numba to run.
    target.options.parse_as_flags(flags, {"nopython": True, "error_model": "numpy", "_nrt": False})
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    with core.compiler_lock.global_compiler_lock:
        library = _Library(context.codegen(), function.__name__)
        found = core.compiler.compile_extra(
            target.typing_context, context, function, wanted, None, flags, locals={}, library=library
        )
        library.add_ir_module(_entry(context, found.fndesc, given, enter))
        library.finalize()
    return Lowered(library)


def _entry(context: Any, inner: Any, given: tuple[Any, ...], enter: Enter) -> Any:
    """A module with the C function `ENTRY`, which calls the function that `inner` describes."""
    module, number = context.create_module(ENTRY), ir.IntType(64)
    kinds = [context.get_value_type(kind) for kind in given]
    entry = ir.Function(module, ir.FunctionType(number, kinds), ENTRY)
    form = context.call_conv.get_function_type(inner.restype, inner.argtypes)
    called = ir.Function(module, form, inner.llvm_func_name)
    builder = ir.IRBuilder(entry.append_basic_block("entry"))
    values = enter(context, builder, entry.args)
    status, value = context.call_conv.call_function(builder, called, inner.restype, inner.argtypes, values)
    whole = inner.restype != types.none
    result = context.cast(builder, value, inner.restype, types.int64) if whole else ir.Constant(number, 0)
    builder.ret(builder.select(status.is_error, ir.Constant(number, 1), result))
    return module


# -- what stands behind an address ------------------------------------------------------------------------------------
def _type_of(part: Any) -> Any:
    if isinstance(part, tuple):
        return types.BaseTuple.from_types([_type_of(p) for p in part])
    if part == "n":
        return types.int64
    short, axes = array_of(part)
    return types.Array(ELEMENTS[short], axes, "C")


def _numbers(builder: Any, address: Any) -> Iterator[Any]:
    at = 0
    while True:
        yield builder.load(builder.gep(address, [ir.Constant(ir.IntType(64), at)]))
        at += 1


def _value(context: Any, builder: Any, kind: Any, numbers: Iterator[Any]) -> Any:
    if isinstance(kind, types.BaseTuple):
        return context.make_tuple(builder, kind, [_value(context, builder, k, numbers) for k in kind])
    if not isinstance(kind, types.Array):
        return next(numbers)
    element = context.get_data_type(kind.dtype)
    data = builder.inttoptr(next(numbers), element.as_pointer())
    shape, nbytes = [next(numbers) for _ in range(kind.ndim)], context.get_abi_sizeof(element)
    steps: list[Any] = []
    step = ir.Constant(ir.IntType(64), nbytes)
    for size in reversed(shape):
        steps.insert(0, step)
        step = builder.mul(step, size)
    array = context.make_array(kind)(context, builder)
    populate_array(array, data, shape, steps, nbytes, None)
    return array._getvalue()

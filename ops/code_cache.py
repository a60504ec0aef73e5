"""Machine code of kernels, kept on disk as object files that LLVM links into the process.

Numba compiles a kernel once. From then on every process links what is on disk, without Numba, which takes longer to load than
many a program's first step. A file is named after all that its code depends on: the kernel's source and what that is built from,
the versions of Numba and LLVM, the CPU. A file that is truncated or changed is made again. Of several processes that lack the
same one, the first makes it, and the others wait for it. Nothing in it is unpickled.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Final

MAGIC: Final = b"rainshed machine code 1\n"
DIGEST: Final = 32  # bytes, of what follows it in the file
WAIT_S: Final = (
    60.0  # for what another process compiles: far longer than any kernel takes; then this process compiles it, too
)
LOOK_S: Final = 0.01  # between two looks at what the other process does


@dataclass(frozen=True, slots=True, eq=False)
class Code:
    """A compiled kernel: a C function of 64-bit numbers that gives one; it releases the GIL while Python calls it.

    kept  what must live as long as the address is used
    """

    address: int
    kept: object

    def __call__(self, *args: int) -> int:
        return callable_at(self.address, len(args))(*args)


def can_compile() -> bool:
    """Whether Numba may compile in this process."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


def kernel_code(name: str, source: str, make: Callable[[], Any]) -> Code:
    """A kernel, from the cache on disk if that has it.

    source  all that the machine code depends on, but for versions and the CPU
    make    gives the kernel in LLVM's language, as `ops/lowering.py` makes it; its arguments are addresses or int64
    """
    symbol, linker = _symbol(name, source), _linker()
    with linker.making:  # Numba compiles one function at a time anyway
        address = linker.address(symbol, None)
        if address is None:
            with _turn(_path(symbol)) as part:
                address = linker.address(symbol, None)  # made by another process meanwhile
                if address is None:
                    made = make()
                    code = _object_of(made, symbol)
                    if code is None:
                        return Code(made.address(), made)
                    _write(part, _path(symbol), code)
                    address = linker.address(symbol, code)
    assert address is not None
    return Code(address, linker)


def is_cached(name: str, source: str) -> bool:
    """Whether this process or the cache on disk has the machine code of a kernel."""
    symbol = _symbol(name, source)
    if symbol in _linker().found:
        return True
    path = _path(symbol)
    return path is not None and os.path.exists(path) and _read(path) is not None


@lru_cache(maxsize=64)
def digest_of(*modules: str) -> str:
    """What the source of modules hashes to; they are not imported for it."""
    found = []
    for module in modules:
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None, module
        found.append(Path(spec.origin).read_text(encoding="utf-8"))
    return hashlib.blake2b("\n".join(found).encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=1)
def cpu() -> tuple[str, str]:
    """Name and features, as LLVM calls them, of the CPU to compile for: this one, or what Numba's environment variables say."""
    llvm = _llvm()
    name = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = "" if name.lower() == "generic" else llvm.get_host_cpu_features().flatten()
    return name, features


@lru_cache(maxsize=4096)
def callable_at(address: int, arity: int) -> Callable[..., int]:
    """A C function of so many 64-bit numbers."""
    return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arity)(address)


@lru_cache(maxsize=1)
def _llvm() -> Any:
    llvm = import_module("llvmlite.binding")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@lru_cache(maxsize=1)
def _setting() -> bytes:
    """What all machine code of this process depends on."""
    parts = (_numba_version(), import_module("llvmlite").__version__, sys.platform, *cpu())
    return "\n".join(parts).encode()


def _numba_version() -> str:
    """What tells versions of Numba apart, which is not loaded for it: the file that says its own, else what its installer wrote
    down, which takes longer to find."""
    spec = find_spec("numba")
    if spec is not None and spec.origin is not None:
        with suppress(OSError):
            text = Path(spec.origin).with_name("_version.py").read_text(encoding="utf-8")
            if '"version": "' in text:
                return text
    return str(import_module("importlib.metadata").version("numba"))


@lru_cache(maxsize=4096)
def _symbol(name: str, source: str) -> str:
    """The kernel's name in object files and on disk."""
    digest = hashlib.blake2b(_setting() + b"\0" + source.encode(), digest_size=16).hexdigest()
    return f"{name}_{digest}"


# -- linking ----------------------------------------------------------------------------------------------------------
@dataclass(eq=False)
class _Linker:
    """Object files in the memory of this process, where they stay."""

    engine: Any
    making: threading.RLock = field(default_factory=threading.RLock)  # who makes what is not there yet
    lock: threading.Lock = field(default_factory=threading.Lock)
    found: dict[str, int] = field(default_factory=dict)

    def address(self, symbol: str, code: bytes | None) -> int | None:
        """Of a function, from `code`, or from the file that is named after it; None if neither has it."""
        with self.lock:
            if symbol not in self.found:
                code = code or _read(_path(symbol))
                if code is None:
                    return None
                self.engine.add_object_file(_llvm().ObjectFileRef.from_data(code))
                self.engine.finalize_object()
                self.found[symbol] = self.engine.get_function_address(symbol)
            return self.found[symbol]


_FIRST: Final = threading.Lock()  # functools.lru_cache calls a function twice where two threads are first


def _linker() -> _Linker:
    with _FIRST:
        return _only_linker()


@lru_cache(maxsize=1)
def _only_linker() -> _Linker:
    llvm = _llvm()
    return _Linker(llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target()))


def _target() -> Any:
    """As Numba's own, so that what it compiled can be linked. A new one each time: an engine takes its own with it."""
    triple = _llvm().Target.from_default_triple()
    name, features = cpu()
    reloc = "static" if triple.name.startswith("x86") else "default"
    return triple.create_target_machine(
        cpu=name, features=features, opt=3, reloc=reloc, codemodel="jitdefault", jit=True
    )


# -- from LLVM's language to an object file ---------------------------------------------------------------------------
def _object_of(made: Any, symbol: str) -> bytes | None:
    """The object file of a kernel, whose C function gets the name `symbol`; None where its code needs what only Numba has."""
    llvm = _llvm()
    module = llvm.parse_assembly(made.text())
    module.get_function(made.entry).name = symbol
    for part in (*module.functions, *module.global_variables):
        if not part.is_declaration and part.name != symbol:
            part.linkage = "internal"
    target = _target()
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options()))
    return bytes(target.emit_object(module)) if _stands_alone(module) else None


def _stands_alone(module: Any) -> bool:
    """Whether all that the code refers to is in every process."""
    process = ctypes.CDLL(None)
    outside = [part.name for part in (*module.functions, *module.global_variables) if part.is_declaration]
    return all(name.startswith("llvm.") or hasattr(process, name) for name in outside)


# -- files ------------------------------------------------------------------------------------------------------------
def _path(symbol: str) -> Path | None:
    """None where no folder can be found for it."""
    folder = _folder(os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME"))
    return None if folder is None else folder / f"{symbol}.o"


@lru_cache(maxsize=4)
def _folder(base: str | None, home: str | None) -> Path | None:
    """Where machine code is kept; these environment variables say it."""
    try:
        return (Path(base) if base else Path.home() / ".cache") / "rainshed" / "kernels"
    except RuntimeError:
        return None


def _read(path: Path | None) -> bytes | None:
    """The code in a file; None if it is not there, or not whole."""
    if path is None:
        return None
    try:
        data = path.read_bytes()
    except OSError:
        return None
    head, code = data[: len(MAGIC) + DIGEST], data[len(MAGIC) + DIGEST :]
    return code if head == _head(path, code) else None


def _head(path: Path, code: bytes) -> bytes:
    """What a file of this name begins with."""
    return MAGIC + hashlib.blake2b(path.stem.encode() + b"\0" + code, digest_size=DIGEST).digest()


@contextmanager
def _turn(path: Path | None) -> Iterator[BinaryIO | None]:
    """Wait until no other process makes this file: the file to write it to, locked; None where that cannot be, or takes longer
    than WAIT_S.

    The system unlocks what a process has locked that ends. The file's name is always the same, so what such a process leaves
    there, the next one writes over.
    """
    part = None if path is None else _locked(path)
    try:
        yield part
    finally:
        if part is not None:
            with suppress(OSError):
                if _is_at(part, Path(part.name)):  # it did not get its place
                    Path(part.name).unlink()
            with suppress(OSError):
                part.close()


def _locked(path: Path) -> BinaryIO | None:
    looks, waiting = (
        int(WAIT_S / LOOK_S),
        threading.Event(),
    )  # counted: while the computer sleeps, the other gets no further either
    name = path.with_suffix(".part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            part = name.open("ab")
            try:
                while not _lock(part):
                    if not looks:
                        raise TimeoutError
                    looks -= 1
                    waiting.wait(LOOK_S)
            except BaseException:
                part.close()
                raise
            if _is_at(part, name) or path.exists():
                return part
            part.close()  # who had locked it has put it in its place, or removed it
    except OSError:  # that of time, too
        return None


def _lock(file: BinaryIO) -> bool:
    """Whether this process has the file now, and no other."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is the one of this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _write(part: BinaryIO | None, path: Path | None, code: bytes) -> None:
    """Put a file in its place as a whole. Where that cannot be done, the next process compiles again."""
    if part is None or path is None or not _is_at(part, Path(part.name)):
        return
    with suppress(OSError):
        part.truncate(0)
        part.write(_head(path, code) + code)
        part.flush()
        Path(part.name).replace(path)

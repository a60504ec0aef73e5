"""The cache of machine code: whatever happens to its folder, everybody gets right results, and nothing else is left in it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rainshed.ops import code_cache, depthwise, fill, pool2d_native, taps, vector
from rainshed.ops.array_kernel import array_kernel, ints

FORM = ("f32", "f32", "n")
SCRIPT = """
import sys
import numpy as np
from rainshed.ops.array_kernel import array_kernel
from rainshed.ops.scalar import made

print("begun", flush=True)
for factor in sys.argv[1:]:
    source = f"def kernel(x, out, n):\\n    for i in range(n):\\n        out[i] = x[i] * {factor}\\n"
    x, out = np.arange(5, dtype=np.float32), np.zeros(5, np.float32)
    array_kernel("scaled", ("f32", "f32", "n"), source, lambda: made(source))(x, out, 5)
    assert (out == x * int(factor)).all(), out
print("numba" in sys.modules, flush=True)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fresh()
    return tmp_path / "rainshed" / "kernels"


def fresh() -> None:
    """Forget what this process has linked, as a new one."""
    code_cache._only_linker.cache_clear()


def started(*factors: int, **env: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", SCRIPT, *map(str, factors)]
    return subprocess.Popen(line, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> bool:
    """Whether it needed Numba."""
    out, errors = process.communicate(timeout=50)
    assert process.returncode == 0, errors
    assert not errors
    return out.split()[-1] == "True"


def scaled(factor: int, made: list[int]) -> np.ndarray:
    """What a compiled kernel makes of 0, 1, 2; `made` gets the factor if it was compiled now."""

    def make():
        made.append(factor)

        def kernel(x, out, n):
            for i in range(n):
                out[i] = x[i] * factor

        return kernel

    x, out = np.arange(3, dtype=np.float32), np.empty(3, np.float32)
    array_kernel("scaled", FORM, f"by {factor}", make)(x, out, 3)
    return out


def test_processes_that_compile_at_once_one_of_which_is_killed(folder: Path):
    several = [started(2, 3), started(3, 2), started(2, 3)]
    killed = several.pop()
    assert killed.stdout is not None and killed.stdout.readline() == "begun\n"
    killed.kill()
    killed.communicate()
    needed = [ended(process) for process in several]
    assert any(needed)
    assert sorted(path.suffix for path in folder.iterdir()) == [".o"] * 2
    assert not ended(started(2, 3))


HOLDER = """
import fcntl, sys
with open(sys.argv[1], "ab") as part:
    fcntl.flock(part, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(folder: Path):
    """Another process that compiles `scaled(5)` and gets no further. End it, or close its input."""
    made: list[int] = []
    scaled(5, made)
    (path,) = folder.iterdir()
    path.unlink()
    fresh()
    line = [sys.executable, "-c", HOLDER, str(path.with_suffix(".part"))]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_of_several_processes_one_compiles_and_the_others_wait(folder: Path):
    several = [started(2) for _ in range(3)]
    assert sorted(ended(process) for process in several) == [False, False, True]
    assert [path.suffix for path in folder.iterdir()] == [".o"]


def test_a_process_that_ends_while_it_compiles_is_waited_for_no_longer(folder: Path, holder: subprocess.Popen[str]):
    made: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(scaled, 5, made)
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        assert not made
        holder.kill()
        assert waiting.result()[1] == 5
    assert made == [5] and [path.suffix for path in folder.iterdir()] == [".o"]


def test_a_process_that_takes_too_long_is_waited_for_no_longer(
    folder: Path, holder: subprocess.Popen[str], monkeypatch
):
    monkeypatch.setattr(code_cache, "WAIT_S", 0.05)
    made: list[int] = []
    assert scaled(5, made)[1] == 5 and made == [5]
    assert [path.suffix for path in folder.iterdir()] == [".part"]  # that file is the other's


def test_a_kernel_that_cannot_be_compiled_leaves_the_others_their_turn(folder: Path):
    def failing():
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        array_kernel("scaled", FORM, "by 9", failing)
    assert list(folder.iterdir()) == []
    assert scaled(9, [])[1] == 9


def test_threads_that_compile_at_once():
    made: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        for out in pool.map(lambda factor: scaled(factor, made), [7, 7, 8, 7]):
            assert out[1] in (7, 8) and out[2] == 2 * out[1]
    assert sorted(made) == [7, 8]


@pytest.mark.parametrize("harm", ["empty", "short", "noise", "one bit", "another's"])
def test_a_file_that_is_not_whole_is_made_again(folder: Path, harm: str):
    made: list[int] = []
    scaled(3, made)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    if harm == "another's":
        scaled(4, [])
        other = next(p for p in folder.iterdir() if p != path)
        other.replace(path)
    else:
        flipped = whole[:-1] + bytes([whole[-1] ^ 1])
        path.write_bytes(
            {"empty": b"", "short": whole[: len(whole) // 2], "noise": os.urandom(900), "one bit": flipped}[harm]
        )
    fresh()
    assert scaled(3, made).tolist() == [0, 3, 6] and made == [3, 3]
    fresh()
    assert scaled(3, made).tolist() == [0, 3, 6] and made == [3, 3]
    assert list(folder.iterdir()) == [path]


def test_what_a_killed_process_has_left_is_written_over(folder: Path):
    made: list[int] = []
    scaled(3, made)
    (path,) = folder.iterdir()
    path.with_suffix(".part").write_bytes(path.read_bytes()[:100])
    path.unlink()
    fresh()
    scaled(3, made)
    fresh()
    assert scaled(3, made).tolist() == [0, 3, 6] and made == [3, 3]
    assert list(folder.iterdir()) == [path]


def test_another_cpu_has_files_of_its_own(folder: Path):
    assert ended(started(2)) and ended(started(2, NUMBA_CPU_NAME="generic"))
    assert len(list(folder.iterdir())) == 2


def test_other_sources_have_other_machine_code():
    made: list[int] = []
    assert scaled(3, made)[1] == 3 and scaled(4, made)[1] == 4 and scaled(3, made)[1] == 3
    assert made == [3, 4]


def test_a_folder_that_cannot_be_written_is_no_hindrance(folder: Path, monkeypatch):
    blocked = folder.parents[1] / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    made: list[int] = []
    fresh()
    assert scaled(6, made)[1] == 6 and made == [6]


def test_arrays_that_are_not_as_declared_are_refused():
    def kernel(x, out, n):
        out[0] = x[0]

    run = array_kernel("first", FORM, "first", lambda: kernel)
    out = np.empty(3, np.float32)
    for wrong in (np.zeros(3), np.zeros((3, 1), np.float32), np.zeros(6, np.float32)[::2]):
        with pytest.raises(TypeError, match="takes f32"):
            run(wrong, out, 3)


def test_kernels_know_all_that_they_are_built_from():
    """An edit of a module that writes the loops of another must not go unnoticed."""
    for user in (depthwise, pool2d_native):
        needs = {user.Taps.__module__, user.address_intrinsic.__module__}
        assert needs <= set(taps.LOOPS)


def test_an_edit_of_a_module_is_noticed_that_a_kernel_is_built_from(tmp_path: Path, monkeypatch):
    module = tmp_path / "some_loops.py"
    module.write_text("n = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = code_cache.digest_of(taps.__name__, "some_loops")
    module.write_text("n = 2")
    code_cache.digest_of.cache_clear()
    assert before != code_cache.digest_of(taps.__name__, "some_loops") != code_cache.digest_of("some_loops")


def test_kernels_of_this_package_need_no_numba_once_they_are_on_disk(folder: Path):
    made = [fill.compiled.__wrapped__(kind) for kind in fill.NUMBERS]
    made += [module.__wrapped__() for module in (fill.compiled_chances, vector.products, depthwise.compiled)]
    assert None not in made
    kept = {path.stem.rpartition("_")[0] for path in folder.iterdir()}
    assert kept == {*fill.NUMBERS, "chances", "products", "taps"}


def test_a_kernel_that_calls_what_only_numba_has_stays_with_numba(folder: Path):
    def kernel(x, out, n):
        for i in range(n):
            out[i], _ = math.frexp(x[i])

    x, out = np.array([3, 5, 8], np.float32), np.empty(3, np.float32)
    array_kernel("mantissas", FORM, "mantissas", lambda: kernel)(x, out, 3)
    assert out.tolist() == [0.75, 0.625, 0.5] and not list(folder.iterdir())


def test_every_part_of_a_form_arrives():
    def kernel(out, table, none, few, n):
        out[0], out[1], out[2], out[3] = table[1, 2], len(none), few[0] * few[1], n

    form = ("i64", "u16x2", ints(0), ints(2), "n")
    out, table = np.zeros(4, np.int64), np.arange(8, dtype=np.uint16).reshape(2, 4)
    array_kernel("parts", form, "parts", lambda: kernel)(out, table, (), (5, 7), 100)
    assert out.tolist() == [6, 0, 35, 100]

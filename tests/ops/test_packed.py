"""Packed matrices and products by them: the truth of NumPy, by machine code, in pieces, for all sizes and ways to lie."""

from itertools import product as every

import numpy as np
import pytest
from laws import check_op, f32

from rainshed.ops.code_cache import can_compile
from rainshed.ops.errors import ShapeError
from rainshed.ops.packed import PANEL, pack, packed_call, packed_code, packed_product
from rainshed.ops.records import records_of
from rainshed.ops.source import input as input_node

SIZES = ((4, 32, 33, 48), (2, 5, 37, 50), (1, 1, 1, 1), (3, 7, 20, 16), (2, 33, 8, 17))  # stack, rows, shared, columns


def packed(b, turn=False):
    b = np.swapaxes(b, -1, -2) if turn else b
    out = np.full((*b.shape[:-2], -(-b.shape[-1] // PANEL), b.shape[-2], PANEL), np.nan, np.float32)
    pack.cpu(b, out, turn=False)
    return out


def run(records):
    assert records is not None
    for record in records:
        assert record.function(int(record.numbers.ctypes.data)) == 0


@pytest.mark.parametrize("turn", (False, True))
@pytest.mark.parametrize("shape", ((5, 33), (16, 16), (1, 1), (2, 7, 20), (3, 40, 8), (0, 4), (2, 4, 0)))
def test_pack(shape, turn):
    x = f32(*shape)
    check_op(pack, x, gradient=False, turn=turn)
    node = pack(input_node("x", shape), turn=turn)
    want = packed(x, turn)
    found = np.full(node.shape, np.nan, np.float32)
    pack.cpu(x, found, turn=turn)
    np.testing.assert_array_equal(found, want)
    if not x.size or not can_compile():
        return
    for lying in (x, np.asfortranarray(x) if x.ndim == 2 else np.swapaxes(np.swapaxes(x, 1, 2).copy(), 1, 2)):
        room = np.full((*want.shape[:-3], want.shape[-3] + 1, *want.shape[-2:]), np.nan, np.float32)
        part = room[..., :-1, :, :]  # panels of a larger one
        run(records_of(pack, {"turn": turn}, [lying], part))
        np.testing.assert_array_equal(part, want)
        assert np.isnan(room[..., -1, :, :]).all()


@pytest.mark.parametrize("summed", (False, True))
@pytest.mark.parametrize("sizes", SIZES)
def test_packed_product(sizes, summed):
    stack, m, k, n = sizes
    a, b = f32(stack, m, k) if summed else f32(m, k), f32(stack, k, n)
    total = a @ b
    total = total.sum(0) if summed else total
    attrs = {"columns": n, "summed": summed}
    for c in ((), (f32(*total.shape) * 3,)):
        check_op(packed_product, a, packed(b), *c, tolerance=1e-4, gradient=False, **attrs)
        want = sum(c, total)
        out = np.full(total.shape, np.nan, np.float32)
        packed_product.cpu(a, packed(b), *c, out, **attrs)
        np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-4)
        if can_compile():
            found = np.full(total.shape, np.nan, np.float32)
            run(records_of(packed_product, attrs, [a, packed(b), *c], found))
            np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
            again = np.full(total.shape, np.nan, np.float32)
            packed_call((a, packed(b), *c, again), summed)()
            np.testing.assert_array_equal(again, found)


def test_a_single_matrix():
    a, b = f32(6, 9), f32(9, 21)

    def reference(x, panels):
        return (x @ np.concatenate(panels, axis=1))[:, :21]

    np.testing.assert_allclose(reference(a, packed(b)), a @ b, rtol=1e-4, atol=1e-5)
    check_op(packed_product, a, packed(b), reference=reference, columns=21, tolerance=1e-4, gradient=False)


def test_pieces_and_arrays_in_steps_have_the_same_bits():
    if not can_compile():
        return  # there is no machine code
    a, b, c = f32(9, 40), f32(2, 40, 80), f32(2, 9, 80)
    whole = np.empty((2, 9, 80), np.float32)
    run(records_of(packed_product, {"columns": 80, "summed": False}, [a, packed(b), c], whole))
    wide, p = np.full((2, 11, 96), np.nan, np.float32), packed(b)
    wide[:, :9, :80] = 0
    for g, (low, high) in every(range(2), ((0, 32), (32, 80))):
        piece = wide[g : g + 1, :9, low:high]
        panels = p[g : g + 1, low // PANEL : high // PANEL]
        rows = np.repeat(a, 2, 0)[::2]
        run(
            records_of(
                packed_product,
                {"columns": high - low, "summed": False},
                [rows, panels, c[g : g + 1, :, low:high]],
                piece,
            )
        )
    np.testing.assert_array_equal(wide[:, :9, :80], whole)
    assert np.isnan(wide[:, 9:]).all() and np.isnan(wide[..., 80:]).all()  # nothing is written beside it


@pytest.mark.parametrize("special", (np.nan, np.inf, -np.inf, 1e-42, -0.0, 1e18))
def test_numbers_that_are_not_finite_or_very_small(special):
    a, b = f32(5, 12), f32(12, 19)
    a[2, 3], b[7, 18] = special, special
    want, found = np.empty((5, 19), np.float32), np.empty((5, 19), np.float32)
    with np.errstate(invalid="ignore"):  # whether NumPy's product of infinities warns depends on its BLAS
        packed_product.cpu(a, packed(b), want, columns=19, summed=False)
    call = packed_call((a, packed(b), found), False)
    if call is not None:
        call()
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


def test_without_a_compiler_there_is_no_machine_code(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    packed_code.cache_clear()
    try:
        assert packed_call((f32(4, 4), packed(f32(4, 4)), f32(4, 4)), False) is None
    finally:
        packed_code.cache_clear()


def test_what_does_not_fit_is_refused():
    a, p = input_node("a", (4, 9)), input_node("p", (2, 9, PANEL))
    packed_product(a, p, columns=20)
    for bad in (
        (a, p, {"columns": 40}),
        (a, p, {"columns": 20, "summed": True}),
        (input_node("d", (4, 8)), p, {"columns": 20}),
    ):
        with pytest.raises(ShapeError, match="do not fit together"):
            packed_product(*bad[:2], **bad[2])
    with pytest.raises(ShapeError, match="takes matrices of f32"):
        pack(input_node("x", (4, 4), "float64"))

"""Windows along one axis: their reach, their inverse, and the padding of tiles, against counting one by one."""

import itertools

import numpy as np
import pytest

from rainshed.ops.errors import ShapeError
from rainshed.ops.window import Window, add_patches, chunks, clean_padding, patches

CASES = [
    (Window(kernel, stride, low, dilation), size, high)
    for kernel, stride, low, dilation, size, high in itertools.product(
        (1, 2, 3), (1, 2, 3), (0, 1, 4), (1, 2), (1, 5, 8), (0, 2)
    )
    if Window(kernel, stride, low, dilation).count(size, high) > 0
]


def covered(window, o):
    return [o * window.stride - window.low + t * window.dilation for t in range(window.kernel)]


def intervals(size):
    return [(a, b) for a in range(size) for b in range(a + 1, size + 1)]


def test_reach_is_exact():
    for window, size, high in CASES:
        count = window.count(size, high)
        assert covered(window, count - 1)[-1] < size + high <= covered(window, count)[-1]
        for first, last in intervals(count):
            ends = min(covered(window, first)), max(covered(window, last - 1))
            low, stop = window.reach(0).interval(((first, last),), size)
            if ends[1] < 0 or ends[0] >= size:
                assert low == stop
            else:
                assert (low, stop) == (max(0, ends[0]), min(size, ends[1] + 1))


def test_inverse_holds_all_windows_that_touch():
    for window, size, high in CASES:
        count = window.count(size, high)
        for first, last in intervals(size):
            ends = [(min(covered(window, o)), max(covered(window, o))) for o in range(count)]
            near = [o for o, (a, b) in enumerate(ends) if any(a <= i <= b for i in range(first, last))]
            low, stop = window.inverse(0).interval(((first, last),), count)
            touching = [o for o in range(count) if set(covered(window, o)) & set(range(first, last))]
            assert set(touching) <= set(range(low, stop))
            assert list(range(low, stop)) == near or not touching


def test_a_tile_has_the_same_windows():
    for window, size, high in CASES:
        for first, last in intervals(window.count(size, high)):
            region = window.reach(0).interval(((first, last),), size)
            low, after = window.tile((first, last), region)
            tile = Window(window.kernel, window.stride, low, window.dilation)
            assert tile.count(region[1] - region[0], after) == last - first
            for o in range(last - first):
                seen = [i + region[0] for i in covered(tile, o) if 0 <= i < region[1] - region[0]]
                assert seen == [i for i in covered(window, first + o) if 0 <= i < size]


def test_taps_visit_each_position_once():
    for window, size, high in CASES:
        count = window.count(size, high)
        seen = sorted(
            (o, i)
            for _, windows, positions in window.taps(size, count)
            for o, i in zip(range(count)[windows], range(size)[positions], strict=True)
        )
        assert seen == sorted((o, i) for o in range(count) for i in covered(window, o) if 0 <= i < size)


def test_patches_and_their_transpose():
    rng = np.random.default_rng(0)
    windows = Window(2, 2, 1, 2), Window(3, 1, -1)
    counts = 3, 2
    x = rng.standard_normal((2, 5, 6, 3))
    seen = patches(x, windows, counts)
    given = rng.standard_normal(seen.shape)
    back = np.zeros_like(x)
    add_patches(back, given, windows)
    np.testing.assert_allclose((seen * given).sum(), (x * back).sum())


@pytest.mark.parametrize("images,rows,row_bytes", [(5, 4, 2**18), (3, 7, 2**19), (2, 3, 2**24), (4, 1, 0), (0, 3, 8)])
def test_chunks_cover_all(images, rows, row_bytes):
    seen = np.zeros((images, rows), int)
    for part in chunks(images, rows, row_bytes):
        seen[part] += 1
    assert (seen == 1).all()


def test_padding_arguments():
    windows = Window(3, 2), Window(2, 1)
    assert clean_padding("op", "valid", (6, 4), windows) == ((0, 0), (0, 0))
    assert clean_padding("op", "same", (6, 4), windows) == ((0, 1), (0, 1))
    assert clean_padding("op", 2, (6, 4), windows) == ((2, 2), (2, 2))
    assert clean_padding("op", [[1, 2], [0, 3]], (6, 4), windows) == ((1, 2), (0, 3))
    for wrong in ("full", (1, 2), 1.5, True, ((1, 2), (3, None))):
        with pytest.raises(ShapeError, match="padding is"):
            clean_padding("op", wrong, (6, 4), windows)
    with pytest.raises(ShapeError, match="a window of 3 does not fit the height 2"):
        clean_padding("op", 0, (2, 4), windows)

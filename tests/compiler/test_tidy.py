"""tidy: text in, text out."""

from compiler_kit import check_pass

from rainshed.compiler.passes.tidy import tidy

PARTS = """
%0 = input() {name="a", shape=[1, 3], dtype=f32} : f32[1, 3] @ m0/cpu
%1 = input() {name="b", shape=[2, 3], dtype=f32} : f32[2, 3] @ m0/cpu
"""


def test_parts_that_fill_the_whole_stand_side_by_side():
    check_pass(
        tidy,
        PARTS
        + """
    %2 = unslice(%1) {shape=[4, 3], start=[1, 0], stop=[3, 3], step=[1, 1]} : f32[4, 3] @ m0/cpu
    %3 = unslice(%0) {shape=[4, 3], start=[0, 0], stop=[1, 3], step=[1, 1]} : f32[4, 3] @ m0/cpu
    %4 = add(%2, %3) : f32[4, 3] @ m0/cpu
    %5 = unslice(%0) {shape=[4, 3], start=[3, 0], stop=[4, 3], step=[1, 1]} : f32[4, 3] @ m0/cpu
    %6 = add(%5, %4) : f32[4, 3] @ m0/cpu
    output y = %6
    """,
        PARTS + "%2 = concat(%0, %1, %0) : f32[4, 3] @ m0/cpu\noutput y = %2\n",
    )


def test_parts_with_a_gap_are_added_up_as_before():
    text = """
    %0 = input() {name="b", shape=[2, 3], dtype=f32} : f32[2, 3] @ m0/cpu
    %1 = unslice(%0) {shape=[4, 3], start=[1, 0], stop=[3, 3], step=[1, 1]} : f32[4, 3] @ m0/cpu
    %2 = input() {name="a", shape=[1, 3], dtype=f32} : f32[1, 3] @ m0/cpu
    %3 = unslice(%2) {shape=[4, 3], start=[0, 0], stop=[1, 3], step=[1, 1]} : f32[4, 3] @ m0/cpu
    %4 = add(%1, %3) : f32[4, 3] @ m0/cpu
    output y = %4
    """
    check_pass(tidy, text, text)


def test_a_slice_of_everything_goes_and_a_turned_one_stays():
    check_pass(
        tidy,
        """
    %0 = input() {name="a", shape=[2, 3], dtype=f32} : f32[2, 3] @ m0/cpu
    %1 = slice(%0) {start=[0, 0], stop=[2, 3], step=[1, 1]} : f32[2, 3] @ m0/cpu
    %2 = slice(%1) {start=[1, 0], stop=[-1, 3], step=[-1, 1]} : f32[2, 3] @ m0/cpu
    %3 = negative(%1) : f32[2, 3] @ m0/cpu
    output y = %2
    output z = %3
    """,
        """
    %0 = input() {name="a", shape=[2, 3], dtype=f32} : f32[2, 3] @ m0/cpu
    %1 = slice(%0) {start=[1, 0], stop=[-1, 3], step=[-1, 1]} : f32[2, 3] @ m0/cpu
    %2 = negative(%0) : f32[2, 3] @ m0/cpu
    output y = %1
    output z = %2
    """,
    )

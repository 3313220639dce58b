"""The context rule: every character once, by between half a block and a block."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.inference.context import ContextRule


@given(st.integers(1, 40), st.integers(0, 300), st.data())
def test_every_character_is_scored_once_from_where_the_rule_says(
    block: int, n: int, data: st.DataObject
) -> None:
    rule = ContextRule.of(block, data.draw(st.one_of(st.none(), st.integers(1, block))))
    scored = []
    for k in range(rule.n_chunks(n)):
        start, first, end = rule.chunk(k, n)
        assert end - start <= block + 1
        for t in range(first, end):
            assert start == rule.start(t) == rule.stride * max(0, ceil((t - block) / rule.stride))
            assert t - start <= block
            assert start == 0 or t - start > block - rule.stride
            scored.append(t)
    assert scored == list(range(1, n))


def test_a_stride_of_a_block_gives_blocks_without_overlap() -> None:
    rule = ContextRule.of(8, 8)
    assert [rule.chunk(k, 33) for k in range(rule.n_chunks(33))] == [
        (0, 1, 9),
        (8, 9, 17),
        (16, 17, 25),
        (24, 25, 33),
    ]


@pytest.mark.parametrize("stride", [0, 9, -1])
def test_a_stride_that_cannot_act_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match="1 to 8"):
        ContextRule.of(8, stride)

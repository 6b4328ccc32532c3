# SPDX-License-Identifier: BSD-2-Clause
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ImageError
from harness.kernel_state.bitfields import Field, parse

WORD = (1 << 64) - 1


def test_fields_go_from_the_top_down() -> None:
    block = parse("block a { field x 8 padding 48 field y 8 }").blocks["a"]
    assert block["x"] == Field("x", 0, 56, 8)
    assert block["y"] == Field("y", 0, 0, 8)
    assert block.decode([0x12000000000000FF]) == {"x": 0x12, "y": 0xFF}


def test_the_first_word_is_the_last_one_written() -> None:
    block = parse("block a { field x 64 field y 64 }").blocks["a"]
    assert (block.words, block["x"].word, block["y"].word) == (2, 1, 0)


@pytest.mark.parametrize(
    ("base", "word", "value"),
    [
        ("base 64(49,1)", 0x7FFF_FFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFC),
        ("base 64(49,1)", 0x3FFF_FFFF_FFFF, 0x0000_FFFF_FFFF_FFFC),
        ("base 64(49,0)", 0x7FFF_FFFF_FFFF, 0x0001_FFFF_FFFF_FFFC),
    ],
)
def test_high_fields_extend_their_sign_only_if_the_base_says_so(base: str, word: int, value: int) -> None:
    field = parse(f"{base} block a {{ padding 17 field_high p 47 }}").blocks["a"]["p"]
    assert field.get([word]) == value
    assert field.get_all(np.array([[word]], np.uint64)).tolist() == [value]


@given(
    st.lists(
        st.tuples(st.sampled_from(["field", "field_high", "padding"]), st.integers(1, 48)), min_size=1, max_size=6
    ),
    st.booleans(),
    st.lists(st.integers(0, WORD), min_size=1, max_size=4),
)
def test_scalar_and_column_extraction_agree(rows: list[tuple[str, int]], sign: bool, words: list[int]) -> None:
    text, used = "", 0
    for number, (kind, bits) in enumerate(rows):
        bits = min(bits, 64 - used)
        if bits:
            text += f" {kind} {'' if kind == 'padding' else f'f{number}'} {bits}"
            used += bits
    text += f" padding {64 - used}" if used < 64 else ""
    block = parse(f"base 64(48,{int(sign)}) block a {{ {text} }}").blocks["a"]
    column = np.array(words, np.uint64).reshape(-1, 1)
    for field in block.fields.values():
        assert field.get_all(column).tolist() == [field.get([word]) for word in words]


@given(st.integers(0, WORD), st.integers(0, (1 << 20) - 1))
def test_what_is_put_is_got(word: int, value: int) -> None:
    field = parse("block a { padding 30 field f 20 padding 14 }").blocks["a"]["f"]
    words = [word]
    field.put(words, value)
    assert field.get(words) == value
    assert words[0] & ~(field.mask << field.shift) == word & ~(field.mask << field.shift)


def test_tagged_unions_name_their_blocks() -> None:
    text = "block a { padding 62 field t 2 } block b { field x 62 field t 2 } tagged_union u t { tag a 1 tag b 3 }"
    union = parse(text).unions["u"]
    assert union.blocks == {1: "a", 3: "b"}
    assert union.values == {"a": 1, "b": 3}
    assert union.tag.get([0b111]) == 3


@pytest.mark.parametrize(
    "text",
    [
        "block a { field x 65 }",
        "block a { field x 10 }",
        "block a { field x 32 field y 33 padding 63 }",
        "block a { wrong x 1 }",
        "block a { field x sixty }",
        "block a {",
        "tagged_union u t { tag a 1 }",
        "something",
        "block a { field x 64 } tagged_union u t { tag a 1 }",
        "block \x01",
    ],
)
def test_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(ImageError, match="text"):
        parse(text)

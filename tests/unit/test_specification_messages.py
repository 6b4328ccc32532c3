# SPDX-License-Identifier: BSD-2-Clause
"""What a receiver can get of a message that somebody sent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.specification.messages import Message

SENT = Message(label=7, length=6, words=(1, 2, 3, 4, 5), caps=2)


@pytest.mark.parametrize(
    "received",
    [
        Message(7, 6, (1, 2, 3, 4, 5, 99, 0, 0), caps=2, unwrapped=1),  # the sixth word is not known
        Message(7, 4, (1, 2, 3, 4, 0, 0, 0, 0)),  # nobody has a buffer
        Message(7, 6, (1, 2, 3, 4, 5, 0, 0, 0), caps=1),  # the second capability found no slot
    ],
)
def test_a_message_arrives(received: Message) -> None:
    assert SENT.may_become(received) and received.caps_fit


@pytest.mark.parametrize(
    "received",
    [
        Message(6, 6, SENT.words),
        Message(7, 5, SENT.words),
        Message(7, 3, SENT.words),
        Message(7, 6, (1, 2, 3, 5, 5)),
        Message(7, 4, (1, 2, 0, 4)),
        Message(7, 6, SENT.words, caps=3),
    ],
)
def test_another_message_does_not(received: Message) -> None:
    assert not SENT.may_become(received)


def test_words_beyond_the_length_say_nothing() -> None:
    sent = Message(0, 1, (5, 6, 7))
    assert sent.may_become(Message(0, 1, (5, 0, 0))) and not sent.may_become(Message(0, 1, (6, 0, 0)))


def test_of_all_capabilities_but_one_only_badges_can_come() -> None:
    received = Message(0, 0, (), caps=3, unwrapped=0b110)
    assert received.caps_fit
    assert not replace(received, unwrapped=0b100).caps_fit, "two were moved"
    assert not replace(received, unwrapped=0b1110).caps_fit, "there is no fourth one"
    assert not replace(received, caps=0, unwrapped=1).caps_fit

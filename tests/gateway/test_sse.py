# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import EngineFailed
from gateway import sse
from gateway.sse import Splitter, data_of, event_of

STREAM = (
    b'data: {"a":1}\n\n: alive\n\ndata: one\r\ndata: two\r\n\r\nevent: x\ndata:{"b":"\xc3\xa9"}\n\ndata: [DONE]\n\n'
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=30), st.sampled_from([STREAM, STREAM.replace(b"\r", b"")]))
def test_any_cut_of_the_stream_gives_the_same_events(cuts: list[int], stream: bytes) -> None:
    edges = [0, *sorted(cuts), len(stream)]
    splitter = Splitter()
    events = [event for a, b in itertools.pairwise(edges) for event in splitter.feed(stream[a:b])]
    assert b"".join(events) == stream
    assert [data_of(event) for event in events] == [b'{"a":1}', None, b"one\ntwo", b'{"b":"\xc3\xa9"}', b"[DONE]"]


def test_an_event_without_its_blank_line_is_not_an_event() -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: x\n") == []
    assert splitter.rest == b"data: x\n"


def test_what_is_written_reads_back() -> None:
    assert data_of(event_of(b'{"x":1}')) == b'{"x":1}'


def test_data_over_several_lines_is_written_over_several_lines() -> None:
    assert event_of(b'{\n"x":1}') == b'data: {\ndata: "x":1}\n\n'
    assert data_of(event_of(b"one\ntwo\n")) == b"one\ntwo\n"


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 100)
    with pytest.raises(EngineFailed):
        Splitter().feed(b"x" * 101)

"""The SPDY/3.1 machine: what it makes of bytes however they are cut, right or wrong."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.protocol import spdy, spdy_frames, spdy_headers
from ocishim.protocol.spdy import SpdyConnection
from ocishim.protocol.spdy_frames import Data, Leave, Ping, Reset, SynStream, WindowUpdate, serialize

NAMES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20).map(str.lower)
VALUES = st.text(st.characters(max_codepoint=0xFF), max_size=40)
IDS = st.integers(1, 0x7FFFFFFF)
BLOCKS = st.binary(max_size=64)
FRAMES = st.one_of(
    st.builds(SynStream, IDS, BLOCKS, st.booleans(), st.booleans()),
    st.builds(spdy_frames.Headers, IDS, BLOCKS, st.booleans(), st.booleans()),
    st.builds(spdy_frames.RstStream, IDS, st.integers(0, 2**32 - 1)),
    st.builds(spdy_frames.Settings, st.dictionaries(st.integers(0, 2**24 - 1), st.integers(0, 2**32 - 1), max_size=5)),
    st.builds(Ping, st.integers(0, 2**32 - 1)),
    st.builds(spdy_frames.GoAway, IDS, st.integers(0, 2**32 - 1)),
    st.builds(WindowUpdate, IDS, st.integers(0, 2**31 - 1)),
    st.builds(Data, IDS, st.binary(max_size=200), st.booleans()),
)


def pair(*, windows: bool = True, limits: spdy.Limits | None = None) -> tuple[SpdyConnection, SpdyConnection]:
    """A client and a server that have heard each other's first words."""
    client, server = SpdyConnection(client=True, windows=windows), SpdyConnection(limits=limits)
    exchange(client, server)
    return client, server


def exchange(client: SpdyConnection, server: SpdyConnection) -> tuple[list[spdy.Event], list[spdy.Event]]:
    """Carry what is due both ways until nothing is; the client's events and the server's."""
    at_client: list[spdy.Event] = []
    at_server: list[spdy.Event] = []
    while True:
        up, down = client.data_to_send(), server.data_to_send()
        if not up and not down:
            return at_client, at_server
        at_server += server.receive(up)
        at_client += client.receive(down)


def sent(machine: SpdyConnection) -> list[spdy_frames.Frame]:
    """The frames that are due."""
    return list(spdy_frames.Parser(1 << 20).feed(machine.data_to_send()))


def joined(events: list[spdy.Event]) -> list[spdy.Event]:
    """Events with the pieces of data put together, as they depend on how bytes were cut."""
    found: list[spdy.Event] = []
    for event in events:
        last = found[-1] if found else None
        match last, event:
            case spdy.DataReceived(one, data, False), spdy.DataReceived(other, more, fin) if one == other:
                found[-1] = spdy.DataReceived(one, data + more, fin)
            case _:
                found.append(event)
    return found


def conversation() -> bytes:
    """All that a client may say."""
    client = SpdyConnection(client=True)
    first = client.open({"streamtype": "stdin"})
    second = client.open({"streamtype": "error", "port": "80"}, fin=True)
    client.send(first, b"some bytes")
    client.send(first, b"", fin=True)
    third = client.open({})
    client.acknowledge(third, 1 << 20)
    client.reset(third, Reset.CANCEL)
    client.go_away()
    assert second == 3
    return client.data_to_send() + client.probe()


def test_the_dictionary_is_the_drafts() -> None:
    assert len(spdy_headers.DICTIONARY) == 1423
    assert zlib.adler32(spdy_headers.DICTIONARY) == spdy_headers.DICTIONARY_ID


@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=6), max_size=4))
def test_headers_come_back_as_they_were(blocks: list[dict[str, str]]) -> None:
    writer, reader = spdy_headers.Compressor(), spdy_headers.Decompressor(1 << 16)
    assert [reader.headers(writer.block(headers)) for headers in blocks] == blocks


@given(st.binary(max_size=300))
def test_plain_garbage_is_no_headers_or_some(plain: bytes) -> None:
    squeeze = zlib.compressobj(zdict=spdy_headers.DICTIONARY)
    block = squeeze.compress(plain) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    try:
        spdy_headers.Decompressor(1 << 16).headers(block)
    except spdy_headers.HeaderError:
        pass


def test_a_bomb_in_headers_is_not_inflated() -> None:
    squeeze = zlib.compressobj(9, zdict=spdy_headers.DICTIONARY)
    bomb = squeeze.compress(bytes(20 << 20)) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 32 << 10
    server = SpdyConnection()
    events = server.receive(serialize(SynStream(1, bomb)))
    assert events == [spdy.Broken("headers are longer than 16384 bytes")]


@given(st.lists(FRAMES, max_size=8), st.data())
def test_frames_come_back_as_they_were_however_they_are_cut(
    frames: list[spdy_frames.Frame], data: st.DataObject
) -> None:
    wire = b"".join(map(serialize, frames))
    parser, found = spdy_frames.Parser(1 << 20), []
    while wire:
        cut = data.draw(st.integers(1, len(wire)))
        found += list(parser.feed(wire[:cut]))
        wire = wire[cut:]
    assert glued(found) == glued(frames)


def glued(frames: list[spdy_frames.Frame]) -> list[spdy_frames.Frame]:
    """Frames with data of the same stream put together, as it depends on how bytes were cut."""
    whole: list[spdy_frames.Frame] = []
    for frame in frames:
        match whole[-1] if whole else None, frame:
            case Data(one, data, False), Data(other, more, fin) if one == other:
                whole[-1] = Data(one, data + more, fin)
            case _:
                whole.append(frame)
    return whole


def test_a_conversation_split_at_every_byte_is_the_same() -> None:
    wire = conversation()
    whole = SpdyConnection()
    expected = joined(whole.receive(wire))
    answer = whole.data_to_send()
    for cut in range(len(wire) + 1):
        server = SpdyConnection()
        assert joined(server.receive(wire[:cut]) + server.receive(wire[cut:])) == expected
        assert server.data_to_send() == answer
    server = SpdyConnection()
    assert joined([event for byte in wire for event in server.receive(bytes((byte,)))]) == expected


@given(st.binary(max_size=400))
def test_garbage_breaks_the_connection_or_waits_for_more(garbage: bytes) -> None:
    server = SpdyConnection()
    events = server.receive(garbage)
    if any(isinstance(event, spdy.Broken) for event in events):
        assert isinstance(events[-1], spdy.Broken)
        assert server.receive(b"more") == []


@given(st.lists(FRAMES, max_size=12))
def test_frames_in_any_order_give_events_and_no_surprise(frames: list[spdy_frames.Frame]) -> None:
    server = SpdyConnection()
    server.receive(conversation()[:-50])
    for frame in frames:
        server.receive(serialize(frame))
    server.data_to_send()


@given(st.integers(0, len(conversation()) - 1), st.integers(0, 255))
def test_a_conversation_with_one_byte_changed_gives_events_and_no_surprise(place: int, byte: int) -> None:
    wire = bytearray(conversation())
    wire[place] = byte
    SpdyConnection().receive(bytes(wire))


def test_a_stream_is_opened_answered_used_and_ended() -> None:
    client, server = pair()
    stream = client.open({"streamtype": "stdin"})
    assert exchange(client, server)[1] == [spdy.StreamOpened(stream, {"streamtype": "stdin"}, fin=False)]
    server.reply(stream, {"answer": "yes"})
    server.send(stream, b"down", fin=True)
    client.send(stream, b"up", fin=True)
    at_client, at_server = exchange(client, server)
    assert at_client == [
        spdy.HeadersReceived(stream, {"answer": "yes"}, fin=False),
        spdy.DataReceived(stream, b"down", fin=True),
    ]
    assert at_server == [spdy.DataReceived(stream, b"up", fin=True)]
    assert not server.is_sending(stream)


def test_a_window_is_heeded_and_opens_again() -> None:
    client, server = pair()
    stream = client.open({})
    exchange(client, server)
    room = client.sendable(stream)
    client.send(stream, bytes(room))
    assert client.sendable(stream) == 0
    with pytest.raises(ValueError, match="window"):
        client.send(stream, b"x")
    exchange(client, server)
    server.acknowledge(stream, room)
    assert spdy.WindowOpened(stream) in exchange(client, server)[0]
    assert client.sendable(stream) == room


def test_a_peer_without_flow_control_is_sent_to_and_taken_from_without_windows() -> None:
    client, server = pair(windows=False)
    stream = client.open({})
    exchange(client, server)
    for _ in range(100):
        client.send(stream, bytes(1 << 20))
        server.send(stream, bytes(1 << 20))
        at_client, at_server = exchange(client, server)
        assert [len(event.data) for event in (*at_client, *at_server) if isinstance(event, spdy.DataReceived)] == [
            1 << 20,
            1 << 20,
        ]


def test_a_stream_that_overflows_its_window_is_reset_alone() -> None:
    client, server = pair(limits=spdy.Limits(stream_window=1000))
    first, second = client.open({}), client.open({})
    exchange(client, server)
    events = server.receive(serialize(Data(first, bytes(1001))))
    assert events[-1] == spdy.StreamReset(first, Reset.FLOW_CONTROL_ERROR)
    assert sent(server) == [spdy_frames.RstStream(first, Reset.FLOW_CONTROL_ERROR)]
    assert server.is_sending(second)


def test_a_connection_that_overflows_its_window_is_broken() -> None:
    client, server = pair(limits=spdy.Limits(stream_window=1 << 20, connection_window=100_000))
    stream = client.open({})
    exchange(client, server)
    assert isinstance(server.receive(serialize(Data(stream, bytes(100_001))))[-1], spdy.Broken)
    assert sent(server)[-1] == spdy_frames.GoAway(stream, Leave.PROTOCOL_ERROR)


@pytest.mark.parametrize("stream", [0, 1])
def test_a_window_update_past_what_a_window_can_be(stream: int) -> None:
    client, server = pair()
    client.open({})
    exchange(client, server)
    events = server.receive(serialize(WindowUpdate(stream, 0x7FFFFFFF)))
    if stream:
        assert events == [spdy.StreamReset(1, Reset.FLOW_CONTROL_ERROR)]
    else:
        assert isinstance(events[0], spdy.Broken)


def test_an_initial_window_that_shrinks_shrinks_open_streams() -> None:
    client, server = pair()
    stream = client.open({})
    exchange(client, server)
    before = server.sendable(stream)
    server.send(stream, bytes(before))
    server.receive(serialize(spdy_frames.Settings({spdy_frames.INITIAL_WINDOW_SIZE: 10})))
    assert server.sendable(stream) == 0
    server.receive(serialize(WindowUpdate(stream, before)))
    server.receive(serialize(WindowUpdate(0, before)))
    assert server.sendable(stream) == 10


def test_more_streams_than_allowed_are_refused() -> None:
    client, server = pair(limits=spdy.Limits(streams=2))
    opened = [client.open({}) for _ in range(3)]
    at_client, at_server = exchange(client, server)
    assert len(at_server) == 2
    assert at_client == [spdy.StreamReset(opened[2], Reset.REFUSED_STREAM)]


def test_a_stream_id_that_is_used_again_resets_its_stream() -> None:
    client, server = pair()
    stream = client.open({})
    exchange(client, server)
    again = serialize(SynStream(stream, client_block(client)))
    assert server.receive(again) == [spdy.StreamReset(stream, Reset.PROTOCOL_ERROR)]


def client_block(client: SpdyConnection) -> bytes:
    """A header block in the client's compression context."""
    return client._compressor.block({})


@pytest.mark.parametrize("stream", [0, 2])
def test_a_stream_id_that_is_not_the_clients_breaks_the_connection(stream: int) -> None:
    server = SpdyConnection()
    events = server.receive(serialize(SynStream(stream, spdy_headers.Compressor().block({}))))
    assert isinstance(events[0], spdy.Broken)


def test_data_of_a_stream_that_never_was_is_answered_by_a_reset() -> None:
    _, server = pair()
    assert server.receive(serialize(Data(7, b"?"))) == []
    assert sent(server) == [spdy_frames.RstStream(7, Reset.INVALID_STREAM)]


def test_data_of_a_stream_that_was_just_closed_is_dropped() -> None:
    client, server = pair()
    stream = client.open({})
    exchange(client, server)
    server.reset(stream, Reset.CANCEL)
    server.data_to_send()
    assert server.receive(serialize(Data(stream, b"late"))) == []
    assert sent(server) == []


def test_data_after_the_end_resets_the_stream() -> None:
    client, server = pair()
    stream = client.open({}, fin=True)
    exchange(client, server)
    assert server.receive(serialize(Data(stream, b"more"))) == [spdy.StreamReset(stream, Reset.STREAM_ALREADY_CLOSED)]


def test_pings_of_the_peer_are_answered_and_answers_are_told() -> None:
    client, server = pair()
    server.receive(client.probe())
    assert sent(server) == [Ping(1)]
    assert client.receive(serialize(Ping(1))) == [spdy.PingAnswered(1)]


def test_after_goodbye_no_stream_is_served_and_open_ones_go_on() -> None:
    client, server = pair()
    stream = client.open({})
    exchange(client, server)
    server.go_away()
    late = client.open({})
    client.send(stream, b"still")
    at_client, at_server = exchange(client, server)
    assert spdy.GoneAway(stream, Leave.OK) in at_client
    assert spdy.StreamReset(late, Reset.REFUSED_STREAM) in at_client
    assert at_server == [spdy.DataReceived(stream, b"still", fin=False)]


@pytest.mark.parametrize(
    "wire",
    [
        struct.pack("!HHI", 0x8002, 1, 10) + bytes(10),
        struct.pack("!HHI", 0x8003, 1, 0xFFFFFF),
        struct.pack("!HHI", 0x8003, 1, 4) + bytes(4),
        struct.pack("!HHI", 0x8003, 3, 4) + bytes(4),
        struct.pack("!HHI", 0x8003, 4, 8) + struct.pack("!II", 9, 0),
        struct.pack("!HHI", 0x8003, 6, 0),
    ],
    ids=["version", "length", "short stream", "short reset", "settings", "empty ping"],
)
def test_what_is_no_frame_breaks_the_connection_at_once(wire: bytes) -> None:
    events = SpdyConnection().receive(wire)
    assert [type(event) for event in events] == [spdy.Broken]


def test_frames_of_unknown_types_are_skipped() -> None:
    unknown = struct.pack("!HHI", 0x8003, 99, 3) + b"abc"
    client = SpdyConnection(client=True)
    client.open({"a": "b"})
    assert SpdyConnection().receive(unknown + client.data_to_send()) == [
        spdy.WindowOpened(0),
        spdy.WindowOpened(0),
        spdy.StreamOpened(1, {"a": "b"}, fin=False),
    ]

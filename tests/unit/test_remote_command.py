"""Remote command, channels and port-forward: negotiation, documents, sizes, framing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.protocol import channels, port_forward, remote_command
from ocishim.protocol.channels import ChannelDecoder, ChannelError, Chunk, Closed
from ocishim.protocol.remote_command import Outcome, Size, SizeParser, StreamType, Wanted

CHANNEL = st.integers(0, 9)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["channel.k8s.io", "v4.channel.k8s.io"], "v4.channel.k8s.io"),
        (["v5.channel.k8s.io", "v3.channel.k8s.io"], "v3.channel.k8s.io"),
        (["v9.channel.k8s.io"], None),
        ([], None),
    ],
)
def test_the_best_that_both_know_is_chosen(offered: list[str], chosen: str | None) -> None:
    assert remote_command.negotiate(offered, remote_command.SPDY_PROTOCOLS) == chosen


def test_a_terminal_has_a_stream_of_sizes_from_the_third_protocol_on() -> None:
    wanted = Wanted(stdin=True, stdout=True, stderr=False, tty=True)
    plain = {StreamType.ERROR, StreamType.STDIN, StreamType.STDOUT}
    assert wanted.streams(remote_command.V2) == plain
    assert wanted.streams(remote_command.V3) == plain | {StreamType.RESIZE}


@pytest.mark.parametrize(
    ("outcome", "document"),
    [
        (Outcome(), {"metadata": {}, "status": "Success"}),
        (
            Outcome(3),
            {
                "metadata": {},
                "status": "Failure",
                "reason": "NonZeroExitCode",
                "message": "command terminated with exit code 3",
                "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
            },
        ),
        (
            Outcome(failure="no such container"),
            {
                "metadata": {},
                "status": "Failure",
                "reason": "InternalError",
                "message": "no such container",
                "details": {"causes": [{"message": "no such container"}]},
                "code": 500,
            },
        ),
    ],
)
def test_the_end_is_a_status_document(outcome: Outcome, document: dict[str, object]) -> None:
    assert json.loads(outcome.render(remote_command.V4)) == document
    assert outcome.render(remote_command.V1).decode() == document.get("message", "")


@given(st.lists(st.builds(Size, st.integers(0, 65535), st.integers(0, 65535)), max_size=5), st.data())
def test_sizes_however_they_are_cut(sizes: list[Size], data: st.DataObject) -> None:
    text = "".join(f'{{"Width":{size.width},"Height":{size.height}}}\n' for size in sizes).encode()
    parser, found = SizeParser(), []
    while text:
        cut = data.draw(st.integers(1, len(text)))
        found += parser.feed(text[:cut])
        text = text[cut:]
    assert found == sizes


@given(st.binary(max_size=600))
def test_what_is_no_size_is_an_error_or_waits_for_more(garbage: bytes) -> None:
    parser = SizeParser()
    try:
        for _ in range(3):
            parser.feed(garbage)
    except ValueError:
        pass
    assert len(parser._text) <= 2000


@pytest.mark.parametrize(
    "text", ["[]", '{"Width":-1,"Height":1}', '{"Width":1}', '{"Width":true,"Height":1}', "{" + "[" * 300 + "}", "{}"]
)
def test_a_size_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|Expecting"):
        SizeParser().feed(text.encode())


@given(CHANNEL, st.binary(max_size=100), st.booleans(), st.data())
def test_a_message_however_it_is_cut(channel: int, content: bytes, is_base64: bool, data: st.DataObject) -> None:
    message = channels.encode(channel, content, is_base64=is_base64)
    wire = message.encode() if isinstance(message, str) else message
    decoder, found = ChannelDecoder(is_base64=is_base64, has_close=False), b""
    while wire:
        cut = data.draw(st.integers(1, len(wire)))
        event = decoder.feed(wire[:cut], finished=cut == len(wire))
        assert isinstance(event, Chunk)
        assert event.channel == channel
        found += event.data
        wire = wire[cut:]
    assert found == content


def test_a_close_message_split_at_every_byte() -> None:
    for pieces in ([b"\xff\x01"], [b"\xff", b"\x01"], [b"", b"\xff\x01"], [b"\xff", b"\x01", b""]):
        decoder = ChannelDecoder(is_base64=False, has_close=True)
        events = [decoder.feed(piece, finished=number == len(pieces) - 1) for number, piece in enumerate(pieces)]
        assert [event for event in events if event] == [Closed(1)]


@pytest.mark.parametrize("message", [b"", b"\xff", b"\xff\x01\x02"])
def test_a_message_that_follows_no_protocol(message: bytes) -> None:
    with pytest.raises(ChannelError):
        ChannelDecoder(is_base64=False, has_close=True).feed(message, finished=True)


def test_text_that_is_no_base64() -> None:
    with pytest.raises(ChannelError, match="base64"):
        ChannelDecoder(is_base64=True, has_close=False).feed(b"0!!!!", finished=True)


@given(st.lists(st.tuples(st.binary(max_size=30), st.booleans()), max_size=6), st.booleans(), st.booleans())
def test_garbage_is_events_or_an_error(pieces: list[tuple[bytes, bool]], is_base64: bool, has_close: bool) -> None:
    decoder = ChannelDecoder(is_base64=is_base64, has_close=has_close)
    try:
        for piece, finished in pieces:
            decoder.feed(piece, finished=finished)
    except ChannelError:
        pass


def test_streams_of_a_forward_name_their_port_and_request() -> None:
    headers = {"streamtype": "data", "port": "80", "requestid": "7"}
    assert port_forward.parse_headers(headers, 5) == port_forward.StreamHeaders("7", "data", 80)


def test_streams_without_a_request_id_pair_by_their_numbers() -> None:
    error = port_forward.parse_headers({"streamtype": "error", "port": "80"}, 5)
    data = port_forward.parse_headers({"streamtype": "data", "port": "80"}, 7)
    assert error.request_id == data.request_id


@given(st.text(max_size=8) | st.integers(-9, 99999).map(str))
def test_a_port_is_a_number_in_range_or_an_error(text: str) -> None:
    valid = text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= 65535
    if valid:
        assert port_forward.parse_port(text) == int(text)
    else:
        with pytest.raises(ValueError, match="1 to 65535"):
            port_forward.parse_port(text)

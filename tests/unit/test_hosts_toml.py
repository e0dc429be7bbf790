"""hosts.toml as containerd reads it, and nothing that is half understood."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.errors import InvalidArgument
from ocishim.spec.hosts_toml import Host, directories, parse

DIRECTORY = "/etc/certs.d/some.example"
FULL = """
server = "https://registry.example"
capabilities = ["pull"]
[host."https://mirror.example"]
  capabilities = ["pull", "resolve"]
  ca = "ca.pem"
[host."http://10.0.0.1:5000/cache"]
  ca = ["/abs.pem", "rel.pem"]
  client = [["c.pem", "k.pem"], "both.pem"]
  skip_verify = true
  override_path = true
  dial_timeout = "1m0.5s"
[host."http://10.0.0.1:5000/cache".header]
  x-one = "1"
  x-two = ["2", "3"]
[host."bare.example:443/v2/"]
"""


def test_everything_is_read_and_in_order() -> None:
    found = parse(FULL.encode(), "hosts.toml", DIRECTORY)
    assert found.server == Host("https://registry.example/v2", capabilities=frozenset({"pull"}))
    assert found.mirrors == (
        Host(
            "https://mirror.example/v2",
            capabilities=frozenset({"pull", "resolve"}),
            ca=(f"{DIRECTORY}/ca.pem",),
        ),
        Host(
            "http://10.0.0.1:5000/cache",
            ca=("/abs.pem", f"{DIRECTORY}/rel.pem"),
            client=((f"{DIRECTORY}/c.pem", f"{DIRECTORY}/k.pem"), (f"{DIRECTORY}/both.pem", "")),
            skip_verify=True,
            headers=(("x-one", "1"), ("x-two", "2"), ("x-two", "3")),
            dial_timeout=60.5,
        ),
        Host("https://bare.example:443/v2"),
    )


def test_a_file_without_a_server_says_how_to_speak_to_the_registry() -> None:
    found = parse(b'ca = "ca.pem"\nskip_verify = true', "hosts.toml", DIRECTORY)
    assert found.server is None
    upstream = found.upstream("https://some.example/v2")
    assert (upstream.url, upstream.ca, upstream.skip_verify) == (
        "https://some.example/v2",
        (f"{DIRECTORY}/ca.pem",),
        True,
    )


@pytest.mark.parametrize(
    ("url", "path", "override"),
    [
        ("https://a", "/v2", False),
        ("https://a/", "/v2", False),
        ("https://a/v2", "/v2", False),
        ("https://a/b", "/b/v2", False),
        ("https://a//b/../c/", "/c/v2", False),
        ("https://a/b", "/b", True),
        ("https://a/", "", True),
        ("https://[::1]:5000/x", "/x/v2", False),
    ],
)
def test_the_path_of_the_api_is_found(url: str, path: str, override: bool) -> None:
    text = f'[host."{url}"]\noverride_path = {str(override).lower()}'
    [host] = parse(text.encode(), "hosts.toml", DIRECTORY).mirrors
    assert host.url.partition("//")[2].partition("/")[1:] == path.partition("/")[1:]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server = 7", "server: "),
        ("unheard = 1", "unheard: unknown key"),
        ('[host."https://a"]\nrewrite = 1', "rewrite: unknown key"),
        ('[host."https://a"]\ncapabilities = ["fly"]', "capabilities"),
        ('[host."file:///a"]', "no URL"),
        ('[host."https://user:secret@a"]', "no URL"),
        ('[host."https://a?b=c"]', "no URL"),
        ('[host."https://a:99999"]', "no URL"),
        ('[host."https://a"]\ndial_timeout = "soon"', "no duration"),
        ('[host."https://a".header]\n"a b" = "c"', "no name of a header"),
        ('[host."https://a".header]\nx = "hush\\nhush"', "characters that a header cannot"),
        ('[host."https://a"]\nclient = [[]]', "client"),
        ("host = {", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        parse(text.encode(), "/x/hosts.toml", DIRECTORY)
    assert str(caught.value).startswith("/x/hosts.toml: ")
    assert "hush" not in str(caught.value)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_anything_is_read_or_refused(content: bytes) -> None:
    with suppress(InvalidArgument):
        parse(content, "hosts.toml", DIRECTORY)


@given(st.text(max_size=60))
def test_any_url_is_read_or_refused(url: str) -> None:
    quoted = url.replace("\\", "\\\\").replace('"', '\\"')
    try:
        [host] = parse(f'[host."{quoted}"]'.encode(errors="replace"), "hosts.toml", DIRECTORY).mirrors
    except InvalidArgument:
        return
    assert host.url.startswith(("http://", "https://"))
    assert not host.url.endswith("/")


def test_directories_are_looked_at_as_containerd_does() -> None:
    assert directories("a.example:5000") == ("a.example_5000_", "a.example:5000", "_default")
    assert directories("a.example") == ("a.example", "_default")
    assert directories("[::1]:5000") == ("[::1]_5000_", "[::1]:5000", "_default")

"""Which proxy a registry is asked through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.errors import FailedPrecondition
from ocishim.spec import proxy

BOTH = {"http_proxy": "http://plain:1", "HTTPS_PROXY": "http://secure:2"}


def chosen(host: str, port: int = 443, **environment: str) -> str | None:
    return proxy.choose("https", host, port, {**BOTH, **environment})


def test_each_scheme_has_its_variable_in_small_letters_or_large() -> None:
    assert proxy.choose("http", "registry.test", 80, BOTH) == "http://plain:1"
    assert proxy.choose("https", "registry.test", 443, BOTH) == "http://secure:2"
    assert proxy.choose("https", "registry.test", 443, {"ALL_PROXY": "http://any:3"}) == "http://any:3"
    assert chosen("registry.test", https_proxy="http://small:4") == "http://small:4"
    assert proxy.choose("https", "registry.test", 443, {"http_proxy": "http://plain:1", "https_proxy": ""}) is None


def test_a_proxy_without_a_scheme_speaks_http() -> None:
    assert chosen("registry.test", https_proxy="10.0.0.1:3128") == "http://10.0.0.1:3128"


def test_a_proxy_of_another_kind_is_refused_by_its_variable_and_not_quoted() -> None:
    with pytest.raises(FailedPrecondition, match=r"ALL_PROXY names a proxy of kind 'socks5'") as caught:
        proxy.choose("https", "registry.test", 443, {"all_proxy": "socks5://me:s3cret@socks:1080"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("no_proxy", "host"),
    [
        ("*", "registry.test"),
        ("registry.test", "registry.test"),
        ("Registry.Test", "registry.test"),
        ("other, registry.test", "registry.test"),
        ("test", "registry.test"),
        (".test", "registry.test"),
        ("*.test", "registry.test"),
        ("registry.test:443", "registry.test"),
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3:443", "10.1.2.3"),
        ("fd00::/8", "fd00::1"),
        ("[fd00::1]:443", "fd00::1"),
    ],
)
def test_no_proxy_is_for_names_domains_addresses_and_networks(no_proxy: str, host: str) -> None:
    assert chosen(host, no_proxy=no_proxy) is None


@pytest.mark.parametrize(
    ("no_proxy", "host"),
    [
        ("", "registry.test"),
        (",", "registry.test"),
        ("istry.test", "registry.test"),
        ("registry.test:5000", "registry.test"),
        ("a.registry.test", "registry.test"),
        ("10.0.0.0/8", "11.1.2.3"),
        ("10.0.0.0/8", "registry.test"),
        ("fd00::/8", "10.1.2.3"),
        ("10.0.0.0/99", "10.1.2.3"),
    ],
)
def test_all_others_go_through_the_proxy(no_proxy: str, host: str) -> None:
    assert chosen(host, no_proxy=no_proxy) == "http://secure:2"


@given(st.text(), st.text())
def test_any_environment_is_read_or_refused(url: str, no_proxy: str) -> None:
    try:
        proxy.choose("http", "registry.test", 80, {"http_proxy": url, "no_proxy": no_proxy})
    except FailedPrecondition:
        pass

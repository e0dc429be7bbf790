"""What the kernel's text files say, and that nothing in them can do harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocishim.metrics import cgroup_v1, cgroup_v2
from ocishim.metrics.kernel import (
    LARGEST,
    Interface,
    Keyed,
    Pressure,
    Stall,
    interfaces,
    limit,
    nanoseconds,
    number,
    open_files_limit,
    per_device,
    pressure,
)

NET_DEV = b"""Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     112       2    0    0    0     0          0         0      112       2    0    0    0     0       0          0
  eth0: 10493224    7204    1    2    0     0          0         0   480324    7110    3    4    0     0       0          0
net.7@x:       5       1    0    0    0     0          0         0        6       1    0    0    0     0       0          0
"""  # noqa: E501 - as the kernel aligns it
LIMITS = b"""Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max open files            1024                 524288               files
"""


@pytest.mark.parametrize(("data", "value"), [(b"12\n", 12), (b"0\n", 0), (b"18446744073709551615\n", LARGEST)])
def test_a_number(data: bytes, value: int) -> None:
    assert number(data) == value


@pytest.mark.parametrize(
    "data", [None, b"", b"\n", b"-1\n", b"max\n", b"1 2\n", b"18446744073709551616\n", b"9" * 5000, "²".encode()]
)
def test_what_is_no_number_is_absent(data: bytes | None) -> None:
    assert number(data) is None


@pytest.mark.parametrize("data", [b"max\n", b"-1\n", b"9223372036854771712\n"])
def test_no_limit_is_zero(data: bytes) -> None:
    assert limit(data) == 0


def test_a_limit_is_its_number_and_an_odd_one_is_absent() -> None:
    assert limit(b"67108864\n") == 67108864
    assert limit(b"much\n") is None
    assert limit(None) is None


def test_keyed_lines_are_found_whatever_is_beside_them() -> None:
    stat = Keyed(b"anon 52\nbroken\nfile_mapped\t3\nhugetlb.2MB 4\n12 13 14\npgfault 18446744073709551616\nlast 9")
    assert (stat(b"anon"), stat(b"hugetlb.2MB"), stat(b"last")) == (52, 4, 9)
    assert (stat(b"file_mapped"), stat(b"pgfault"), stat(b"12"), stat(b"absent")) == (None, None, None, None)


def test_pressure_counts_nanoseconds() -> None:
    found = pressure(
        b"some avg10=1.50 avg60=0.25 avg300=0.05 total=125004\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
    )
    assert found == Pressure(Stall(125004000, 1.5, 0.25, 0.05), Stall(7000, 0.0, 0.0, 0.0))


def test_a_kernel_that_has_only_one_line_of_pressure_tells_that() -> None:
    assert pressure(b"some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n") == Pressure(Stall(1000, 0.0, 0.0, 0.0), None)
    assert pressure(b"") is None
    assert pressure(None) is None


def test_interfaces_are_all_but_loopback_under_whatever_name() -> None:
    eth0, other = interfaces(NET_DEV)
    assert eth0 == Interface("eth0", 10493224, 7204, 1, 2, 480324, 7110, 3, 4)
    assert (other.name, other.rx_bytes, other.tx_bytes) == ("net.7@x", 5, 6)


def test_an_interface_name_that_is_no_text_is_escaped() -> None:
    (found,) = interfaces(NET_DEV.replace(b"  eth0", b"\xff\xfe0").replace(b"net.7@x", b"     lo"))
    assert found.name == r"\xff\xfe0"


def test_the_soft_limit_of_open_files() -> None:
    assert open_files_limit(LIMITS) == 1024
    assert open_files_limit(LIMITS.replace(b"1024 ", b"unlimited ")) is None
    assert open_files_limit(None) is None


@given(st.binary(max_size=2000) | st.text(alphabet="0123456789 \n:=.maxtotlrbyesavgfu", max_size=500).map(str.encode))
def test_garbage_in_any_file_harms_nothing(data: bytes) -> None:
    for each in interfaces(data):
        assert 0 <= each.rx_bytes <= LARGEST
    found = pressure(data)
    assert found is None or all(0 <= each.total <= LARGEST for each in (found.some, found.full) if each)
    list(per_device(data))
    open_files_limit(data)
    for version in (cgroup_v1, cgroup_v2):
        version.usage(lambda _, __: data)
        details = version.details(lambda _, __: data, ["2MB"])
        assert all(0 <= each.read_bytes <= LARGEST for each in details.devices)
        assert details.cpu.user is None or 0 <= details.cpu.user <= LARGEST


@given(st.integers(min_value=0, max_value=LARGEST))
def test_times_never_leave_what_a_message_holds(microseconds: int) -> None:
    assert nanoseconds(microseconds) == min(microseconds * 1000, LARGEST)

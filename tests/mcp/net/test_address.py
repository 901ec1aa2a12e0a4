"""Addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.errors import InvalidArgument
from mcp.net.address import Address, Scheme, parse_address


@pytest.mark.parametrize(
    ("text", "address", "canonical"),
    [
        ("127.0.0.1:7400", Address(Scheme.TCP, "127.0.0.1", 7400), "127.0.0.1:7400"),
        ("tcp://node-1.example:0", Address(Scheme.TCP, "node-1.example", 0), "node-1.example:0"),
        ("[::1]:65535", Address(Scheme.TCP, "::1", 65535), "[::1]:65535"),
        ("tcp://[fe80::1%eth0]:1", Address(Scheme.TCP, "fe80::1%eth0", 1), "[fe80::1%eth0]:1"),
        (
            "unix:///run/mcp/node.sock",
            Address(Scheme.UNIX, path="/run/mcp/node.sock"),
            "unix:///run/mcp/node.sock",
        ),
        ("memory://a", Address(Scheme.MEMORY, path="a"), "memory://a"),
    ],
)
def test_addresses_are_read_and_written(text, address, canonical):
    assert parse_address(text) == address
    assert str(address) == canonical
    assert parse_address(canonical) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        ":1",
        "host:",
        "host:-1",
        "host:65536",
        "host:1x",
        "host:٣",
        "a..b:1",
        ".b:1",
        "x" * 64 + ".example:1",
        "::1:80",
        "[]:80",
        "a b:1",
        "u@h:1",
        "h/p:1",
        "http://h:1",
        "unix://relative",
        "unix:///",
        "unix:///dir/",
        "unix:///" + "x" * 104,
        "unix:///a\0b",
        "memory://",
        "tcp://",
        None,
        7,
        b"h:1",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InvalidArgument, match="address"):
        parse_address(text)


@given(st.text())
def test_arbitrary_text_is_an_address_or_refused(text):
    try:
        assert parse_address(str(parse_address(text))) == parse_address(text)
    except InvalidArgument as error:
        assert error.message  # noqa: PT017


@pytest.mark.parametrize("text", ["7000", ":7000", "tcp://7000"])
def test_a_port_alone_is_told_what_it_lacks(text):
    with pytest.raises(
        InvalidArgument, match=r"is a port alone, and an address is HOST:PORT: write 127.0.0.1:7000 "
    ):
        parse_address(text)

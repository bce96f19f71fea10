"""Host and port as one text."""

import pytest

from pneumonia.runtime.connections import address_text, split_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("cluster.example:6379", "cluster.example", 6379), ("127.0.0.1:1", "127.0.0.1", 1),
     ("[::1]:65535", "::1", 65535)],
)  # fmt: skip
def test_an_address_is_host_and_port(text, host, port):
    assert split_address(text) == (host, port)
    assert address_text(host, port) == text


@pytest.mark.parametrize(
    "text", ["auto", "host", "::1", "::1:6379", "[::1]", "[host]:1", "host:0", "host:65536",
             "host:x", ":1", "host:" + "9" * 5000],
)  # fmt: skip
def test_what_does_not_name_both_is_none(text):
    assert split_address(text) is None

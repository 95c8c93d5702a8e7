"""Which addresses may be fetched from: nothing inside, in whatever form it is written or wrapped."""

from __future__ import annotations

import ipaddress

import pytest
import yarl
from hypothesis import example, given
from hypothesis import strategies as st

from envs.fetch.addresses import MAX_URL_CHARS, address_allowed, check_url
from envs.fetch.refusal import FetchReason, FetchRefused

V4, V6 = ipaddress.IPv4Address, ipaddress.IPv6Address
INSIDE = ("0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "169.254.169.254",
          "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.168.1.1", "198.18.0.1", "224.0.0.1", "239.255.255.255",
          "240.0.0.1", "255.255.255.255", "168.63.129.16")  # fmt: skip
IN_4 = st.sampled_from(INSIDE).map(V4) | st.one_of(
    *(
        st.ip_addresses(network=n)
        for n in ("10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16", "0.0.0.0/8")
    )
)  # type: ignore[arg-type]


def wrapped(ip: ipaddress.IPv4Address) -> list[ipaddress.IPv6Address]:
    """The IPv6 addresses that lead, or once led, to an IPv4 address."""
    n = int(ip)
    return [
        V6(0xFFFF << 32 | n),  # mapped
        V6(n),  # compatible
        V6(0xFFFF << 48 | n),  # translated
        V6((0x64FF9B << 96) | n),  # NAT64
        V6((0x64FF9B0001 << 80) | n),  # NAT64, local
        V6(0x2002 << 112 | n << 80 | 1),  # 6to4
        V6(0x20010000 << 96 | n << 64 | 0xFFFFFFFF),  # Teredo's server
        V6(0x20010000 << 96 | 0x08080808 << 64 | n ^ 0xFFFFFFFF),  # Teredo's client
        V6(0x2606470047000000 << 64 | 0x5EFE << 32 | n),  # ISATAP
        V6(0x2606470047000000 << 64 | 0x02005EFE << 32 | n),
    ]


@given(IN_4)
def test_no_inside_address_is_allowed_in_any_form(ip: ipaddress.IPv4Address) -> None:
    assert not address_allowed(ip)
    assert not [str(form) for form in wrapped(ip) if address_allowed(form)]


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
@example(V6("::1"))
@example(V6("::"))
@example(V6("fd00:ec2::254"))
@example(V6("fe80::1"))
@example(V6("fec0::1"))
@example(V6("ff02::1"))
@example(V6("2606:4700::1%eth0"))
def test_what_is_allowed_is_global_by_the_standard_library_too(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if address_allowed(ip):
        inner = getattr(ip, "ipv4_mapped", None) or ip
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = V4(int(ip) & 0xFFFFFFFF)
        assert inner.is_global and not (inner.is_multicast or inner.is_reserved or inner.is_link_local)


@pytest.mark.parametrize("ip", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_allowed(ip: str) -> None:
    assert address_allowed(ipaddress.ip_address(ip))


@pytest.mark.parametrize(
    "ip", ["169.254.169.254", "fd00:ec2::254", "fe80::1", "0.0.0.0", "224.0.0.1", "100.100.100.200"]
)
def test_the_test_switch_lets_in_loopback_and_private_but_no_metadata(ip: str) -> None:
    for inside in ("127.0.0.1", "10.0.0.1", "192.168.0.1", "::1", "fd00::1"):
        assert address_allowed(ipaddress.ip_address(inside), allow_private=True)
    assert not address_allowed(ipaddress.ip_address(ip), allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a.example/",
        "file:///etc/passwd",
        "data:image/png;base64,AA",
        "//a.example/x",
        "a.example/x",
        "http:/a.example/x",
        "http:///x",
        "http://user:word@a.example/",
        "http://@a.example/",
        "http://a.example\\@b.example/",
        "http:\\\\a.example/",
        "http://a.example/\r\nX: y",
        "http://a.ex\tample/",
        " http://a.example/",
        "http://a.example /",
        "http://a..example/",
        "http://.example/",
        "http://a.example../",
        "http://-a.example/",
        "http://a%2eexample/",
        "http://a.example%00/",
        f"http://{'a' * 64}.example/",
        f"http://{'a.' * 130}example/",
        "http://a.example:x/",
        "http://a.example:-1/",
        "http://a.example:99999999/",
        "http://a.example:80:80/",
        "http://[::1/",
        "http://[::1]x/",
        "http://[::1%25eth0]/",
        "http://[127.0.0.1]/",
        "http://[v1.x]/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://127.0.0.0x1/",
        "http://0177.0.0.1/",
        "http://127.0.0.01/",
        "http://1.2.3.4.5/",
        "http://256.1.1.1/",
        "http://a.example.0x7f/",
        "http://a.example/\ud800",
        "http://\u2100.example/",
        "http://xn--\u00e9.example/",
        "http://a.example/" + "x" * MAX_URL_CHARS,
    ],
)
def test_addresses_that_are_none_or_can_be_read_in_two_ways_are_refused(url: str) -> None:
    for allow_private in (False, True):
        with pytest.raises(FetchRefused) as refused:
            check_url(url, allow_private=allow_private)
        assert refused.value.reason is FetchReason.BAD_URL


@pytest.mark.parametrize(
    "url",
    [
        *(f"http://{ip}/" for ip in INSIDE),
        "http://127.0.0.1./",
        "https://[::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://[fd00:ec2::254]/",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://\u2460\u2461\u2466.0.0.1/",
        "http://127\u30020\u30020\u30021/",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://a.localhost/",
        "http://metadata/",
        "http://metadata.google.internal/",
        "http://router.lan/",
        "http://a.example:22/",
        "http://a.example:6379/",
        "http://a.example:0/",
    ],
)
def test_addresses_that_lead_inside_are_refused(url: str) -> None:
    with pytest.raises(FetchRefused) as refused:
        check_url(url)
    assert refused.value.reason is FetchReason.ADDRESS


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("http://a.example", "http://a.example:80/"),
        ("HTTPS://A.Example./x?y=1#z", "https://a.example:443/x?y=1"),
        ("http://a.example:8080/a%20b c\u00e9", "http://a.example:8080/a%20b%20c%C3%A9"),
        ("http://b\u00fccher.example/?q=\u00fc", "http://xn--bcher-kva.example:80/?q=%C3%BC"),
        ("http://8.8.8.8/", "http://8.8.8.8:80/"),
        ("http://[2606:4700:4700:0::1111]/", "http://[2606:4700:4700::1111]:80/"),
        (
            "https://a_b.cdn-1.example/p?url=http%3A%2F%2Flocalhost",
            "https://a_b.cdn-1.example:443/p?url=http%3A%2F%2Flocalhost",
        ),
    ],
)
def test_a_safe_address_has_one_form(url: str, safe: str) -> None:
    assert str(check_url(url)) == safe


@given(
    st.text(st.sampled_from("abz019.:/@[]%?#\\-_x~ \t\u3002\uff0e\uff0f\u2100\u00df\u212a"), max_size=24).map(
        "http://".__add__
    )
)
def test_whatever_is_let_through_reads_the_same_to_the_library_that_connects(url: str) -> None:
    try:
        safe = check_url(url)
    except FetchRefused:
        return
    read = yarl.URL(str(safe), encoded=True)
    assert (read.scheme, read.raw_host, read.port, read.user) == (safe.scheme, safe.host, safe.port, None)
    assert str(check_url(str(safe))) == str(safe) and str(safe).isascii() and str(safe).isprintable()


def test_a_refusal_quotes_no_path_and_no_query() -> None:
    for url in ("http://10.0.0.1/p4th?key=s3cret", "http://a.example:22/p4th?s3cret", "http://[x]/p4th?s3cret"):
        with pytest.raises(FetchRefused) as refused:
            check_url(url)
        assert "s3cret" not in str(refused.value) and "p4th" not in str(refused.value)

"""Which addresses may be fetched from: a pure judgement of URLs and of IP addresses.

Knows nothing of sockets or name servers. Always holds: a `SafeUrl` is plain ASCII and written in one way, so that no
two programs read different hosts in it; an IP address is allowed only if it lies in the public internet (an allow
list for IPv6, for IPv4 all but the IANA special-purpose registry), in whatever form it is wrapped.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from dataclasses import dataclass

from envs.fetch.refusal import FetchReason, FetchRefused

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URL_CHARS = 4096
MAX_HOST_CHARS = 253
PORTS = frozenset({80, 443, 8080, 8443})
"""The ports of web servers. Pictures on others are rare, while other ports are how a fetcher is led to talk to services
that are no web servers, and to scan with the cluster's address."""

# https://www.iana.org/assignments/iana-ipv4-special-registry: all but the globally reachable anycast ones.
_NOT_PUBLIC_4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # looks public, but is the host's own service on one cloud
    )
)  # fmt: skip
_UNICAST_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo (2001::/32) and ORCHID among them
        "2001:db8::/32",
        "2002::/16",  # 6to4: any IPv4 address, wrapped
        "3fff::/20",
    )
)
# Both end in an IPv4 address, and reach just that. The second is how hosts without IPv4 reach everything.
_WRAPPED_4 = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96"))
_ISATAP = (0x00005EFE, 0x02005EFE)
# What the tests' switch adds. Never link-local nor metadata.
_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)
_METADATA_6 = ipaddress.IPv6Network("fd00:ec2::/32")

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# What the WHATWG rules read as a number, so browsers and C libraries as an IPv4 address: 127.1, 0x7f.1, 2130706433.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LOCAL_NAMES = ("localhost", "local", "localdomain", "internal", "intranet", "lan", "home", "corp", "home.arpa")
# Stays as it is in a path or query; all else is percent-encoded (`%` stays: what is encoded is not encoded again).
_PATH_CHARS = "/%:@!$&'()*+,;=~-._"
_QUERY_CHARS = _PATH_CHARS + "?"


@dataclass(frozen=True, slots=True)
class SafeUrl:
    """An address that may be asked, once its host's IP addresses are checked too.

    `host` is in lower case and ASCII, without brackets or a dot at its end; `literal` is set where it is an IP address.
    """

    scheme: str
    host: str
    port: int
    target: str
    literal: IPAddress | None

    @property
    def origin(self) -> str:
        """Scheme, host and port: all that may be shown, as paths and queries may hold secrets."""
        host = f"[{self.host}]" if isinstance(self.literal, ipaddress.IPv6Address) else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def __str__(self) -> str:
        """The whole address, to be sent but not shown."""
        return self.origin + self.target


def check_url(url: str, *, allow_private: bool = False) -> SafeUrl:
    """The address in its one safe form.

    Args:
        url: an absolute address, from anyone.
        allow_private: for tests: loopback and private hosts, and any port from 1024 on, as well.

    Raises:
        FetchRefused: BAD_URL or ADDRESS.
    """
    # First of all, as `urlsplit` silently drops some of these, and backslashes are slashes to some programs.
    if not url or len(url) > MAX_URL_CHARS:
        raise _bad(f"{len(url)} characters; an address has 1 to {MAX_URL_CHARS}")
    if url[0] == " " or any(
        char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff" or char == "\\" for char in url
    ):
        raise _bad("it holds control characters, surrogates or backslashes, or begins with a blank")
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # brackets that do not match, or characters that normalise to a delimiter
        raise _bad("it cannot be split into host and path") from None
    if parts.scheme not in ("http", "https"):
        raise _bad("it is neither http nor https")
    if "@" in parts.netloc:
        raise _bad("it holds a user or password")
    name, port_text = _split_netloc(parts.netloc)
    port = _port(port_text, parts.scheme, allow_private)
    host, literal = _host(name, allow_private)
    if literal is not None and not address_allowed(literal, allow_private=allow_private):
        raise FetchRefused(FetchReason.ADDRESS, f"{literal} is not a public address")
    path = urllib.parse.quote(parts.path or "/", safe=_PATH_CHARS)
    query = urllib.parse.quote(parts.query, safe=_QUERY_CHARS)
    return SafeUrl(parts.scheme, host, port, f"{path}?{query}" if query else path, literal)


def address_allowed(ip: IPAddress, *, allow_private: bool = False) -> bool:
    """Whether a connection to `ip` may be opened; `allow_private` adds loopback and private networks (for tests)."""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return False
        if any(ip in network for network in _WRAPPED_4):
            return address_allowed(_last_four(ip), allow_private=allow_private)
    if allow_private and any(ip in network for network in _PRIVATE):
        return ip not in _METADATA_6
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _NOT_PUBLIC_4)
    if ip not in _UNICAST_6 or any(ip in network for network in _NOT_PUBLIC_6):
        return False
    tunnelled = int(ip) >> 32 & 0xFFFFFFFF in _ISATAP
    return not tunnelled or address_allowed(_last_four(ip))


def _bad(why: str) -> FetchRefused:
    return FetchRefused(FetchReason.BAD_URL, why)


def _last_four(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)


def _split_netloc(netloc: str) -> tuple[str, str]:
    """Host (with its brackets) and the port's digits ("" where there are none)."""
    if netloc.startswith("["):
        name, closed, rest = netloc.partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise _bad("its brackets do not match")
        return name + closed, rest[1:]
    name, _, port = netloc.partition(":")
    return name, port


def _port(digits: str, scheme: str, allow_private: bool) -> int:
    if not digits:
        return 443 if scheme == "https" else 80
    if not re.fullmatch(r"[0-9]{1,5}", digits):
        raise _bad("its port is not a number")
    port = int(digits)
    if port not in PORTS and not (allow_private and 1024 <= port <= 65535):
        raise FetchRefused(FetchReason.ADDRESS, f"port {port} is none of {', '.join(map(str, sorted(PORTS)))}")
    return port


def _host(name: str, allow_private: bool) -> tuple[str, IPAddress | None]:
    """The host in its safe form, and as an IP address where it is one."""
    if name.startswith("["):
        try:
            literal = ipaddress.IPv6Address(name[1:-1])
        except ValueError:
            raise _bad("its brackets hold no IPv6 address") from None
        if literal.scope_id is not None:
            raise _bad("its IPv6 address has a zone")
        return str(literal), literal
    host = _ascii(name).lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > MAX_HOST_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        raise _bad("its host is no name that a name server may know")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return host, ipaddress.IPv4Address(host)
        except ValueError:  # a number, but not four plain ones: programs differ in what they read
            raise _bad("its host is a number, but no plain IPv4 address") from None
    # All addresses of a name are checked as well; these names lead astray by design, or depend on who asks.
    local = len(labels) == 1 or any(host.endswith("." + suffix) for suffix in _LOCAL_NAMES)
    if local and not allow_private:
        raise FetchRefused(FetchReason.ADDRESS, "its host is the name of a local machine")
    return host, None


def _ascii(name: str) -> str:
    """An international name as name servers know it (IDNA 2008 after UTS 46, as browsers do)."""
    if name.isascii():
        return name
    import idna

    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise _bad("its host is no valid international name") from None

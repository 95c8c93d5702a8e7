"""`PictureFetcher`: the bytes of a picture from an address that a stranger named.

Knows nothing of what is done with them; they are only known to begin like a picture. Always holds: a connection is
opened only to an IP address that was checked itself, at the last moment before it is opened, on the first hop as on
every other; no answer takes more than the time and the bytes that the limits name; nothing of one answer (cookies,
referrer) is sent on. PIL is not touched here, and aiohttp is imported on first use.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envs.fetch.addresses import SafeUrl, address_allowed, check_url
from envs.fetch.magic import HEAD_BYTES, looks_like_picture
from envs.fetch.refusal import FetchReason, FetchRefused

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import ResolveResult

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host's name and a port to its IP addresses; raises OSError where it has none."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "Accept": "image/jpeg,image/png,image/webp,image/gif,image/bmp",
    "Accept-Encoding": "identity",
    "User-Agent": "Mozilla/5.0 (compatible; picture-fetcher/1.0)",
}
_MAX_HEADERS = 100
_MAX_HEADER_BYTES = 8190
_PIECE_BYTES = 64 * 1024
_IDLE_S = 15.0


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What a fetch may take.

    `timeout_s` covers all of it: waiting for a connection, name server, redirects, the last byte. `concurrency` and
    `per_host` bound the connections that are open at once, so the memory is at most `concurrency * max_bytes`.
    """

    timeout_s: float
    max_bytes: int
    max_redirects: int = 3
    concurrency: int = 16
    per_host: int = 4

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ValueError: a limit that lets nothing through.
        """
        if not self.timeout_s > 0 or self.max_redirects < 0:
            raise ValueError(
                f"timeout_s={self.timeout_s} must be above 0, max_redirects={self.max_redirects} at least 0"
            )
        if min(self.max_bytes, self.concurrency, self.per_host) < 1:
            raise ValueError(
                f"max_bytes={self.max_bytes}, concurrency={self.concurrency} and per_host={self.per_host} "
                "must be at least 1"
            )


class PictureFetcher:
    """Fetches pictures, many at once, for one event loop. Close it, or use it with `async with`."""

    def __init__(self, limits: FetchLimits, *, allow_private: bool = False, lookup: Lookup | None = None) -> None:
        """Make a fetcher; nothing is opened yet.

        Args:
            limits: what each fetch may take.
            allow_private: for tests: loopback and private networks, and ports from 1024 on, as well.
            lookup: asks the name server; None: the system's.
        """
        self._limits = limits
        self._allow_private = allow_private
        # Threads of its own: a stranger's name server that does not answer must not hold up others' threads.
        self._threads = ThreadPoolExecutor(max_workers=limits.concurrency, thread_name_prefix="picture-names")
        self._lookup = lookup or self._system_lookup
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> PictureFetcher:
        """Itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """See `close`."""
        await self.close()

    async def close(self) -> None:
        """Close all connections; the fetcher is of no further use."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._session is not None:
            await self._session.close()

    async def fetch(self, url: str) -> bytes:
        """What lies at `url`, following redirects: whole, within the limits, and beginning like a picture.

        Raises:
            FetchRefused: with the reason.
        """
        refusal: FetchRefused
        session = self._open_session()  # before the clock starts: the first one imports a library
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await self._follow(session, url)
        except FetchRefused as error:
            refusal = error
        except TimeoutError:  # the deadline; a timeout of the network's own is no different to the caller
            refusal = FetchRefused(FetchReason.TIMEOUT, f"not there within {self._limits.timeout_s:g} s")
        # Out here, and without a chain: the libraries' errors quote whole addresses.
        refusal.__cause__ = refusal.__context__ = None
        raise refusal.with_traceback(None)

    async def _follow(self, session: aiohttp.ClientSession, url: str) -> bytes:
        """The body at the end of the redirects; each hop is checked like the first."""
        address = check_url(url, allow_private=self._allow_private)
        for _ in range(self._limits.max_redirects + 1):
            answer = await self._ask(session, address)
            if isinstance(answer, bytes):
                return answer
            address = check_url(answer, allow_private=self._allow_private)
        raise FetchRefused(
            FetchReason.REDIRECTS, f"{address.origin} is more than {self._limits.max_redirects} redirects away"
        )

    async def _ask(self, session: aiohttp.ClientSession, address: SafeUrl) -> bytes | str:
        """One request: the body, or the address that it redirects to."""
        import aiohttp
        import yarl

        url = yarl.URL(str(address), encoded=True)
        # The library reads the address again; it must read what was checked.
        if (url.scheme, url.raw_host, url.port) != (address.scheme, address.host, address.port):
            raise FetchRefused(FetchReason.BAD_URL, f"{address.origin}: its host can be read in two ways")
        began = False
        try:
            async with session.get(url, allow_redirects=False) as response:
                began = True
                try:
                    return await self._read(response, address)
                except BaseException:
                    response.close()  # with its connection: what is left in it is not wanted
                    raise
        except aiohttp.ClientConnectorError as error:
            raise _from_connector(error, address) from None
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            reason = FetchReason.LENGTH if began else FetchReason.CONNECTION
            raise FetchRefused(reason, f"{address.origin}: broke off ({type(error).__name__})") from None
        except (aiohttp.ClientError, ValueError) as error:  # ValueError: headers that the library cannot make sense of
            raise FetchRefused(
                FetchReason.PROTOCOL, f"{address.origin}: no proper HTTP ({type(error).__name__})"
            ) from None

    async def _read(self, response: aiohttp.ClientResponse, address: SafeUrl) -> bytes | str:
        """Judge the headers, then read what is allowed of the body."""
        if response.status in _REDIRECTS:
            return _redirected(response, address)
        if response.status != 200:
            raise FetchRefused(FetchReason.STATUS, f"{address.origin}: status {response.status}")
        encodings = response.headers.getall("Content-Encoding", ())
        if any(encoding.strip().lower() not in ("", "identity") for encoding in encodings):
            raise FetchRefused(FetchReason.ENCODING, f"{address.origin}: compressed, which was not asked for")
        announced = response.content_length
        if announced is not None and announced > self._limits.max_bytes:
            raise self._too_large(address)
        body = bytearray()
        judged = False
        # Pieces as they come, so that the limits hold while it streams.
        while piece := await response.content.read(_PIECE_BYTES):
            body += piece
            if len(body) > self._limits.max_bytes:
                raise self._too_large(address)
            if not judged and len(body) >= HEAD_BYTES:
                _check_head(body, address)
                judged = True
        if not body or (announced is not None and len(body) != announced):
            raise FetchRefused(FetchReason.LENGTH, f"{address.origin}: {len(body)} bytes came")
        _check_head(body, address)
        return bytes(body)

    def _too_large(self, address: SafeUrl) -> FetchRefused:
        return FetchRefused(FetchReason.TOO_LARGE, f"{address.origin}: more than {self._limits.max_bytes} bytes")

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_resolver(self._lookup, self._allow_private),
                    # A name's addresses are used once, and not kept: they were checked for this connection.
                    use_dns_cache=False,
                    limit=self._limits.concurrency,
                    limit_per_host=self._limits.per_host,
                    keepalive_timeout=_IDLE_S,
                    socket_factory=self._open_socket,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,  # no proxy and no password file of this machine
                auto_decompress=False,
                headers=_HEADERS,
                timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
                read_bufsize=_PIECE_BYTES,
                max_line_size=_MAX_HEADER_BYTES,
                max_field_size=_MAX_HEADER_BYTES,
                max_headers=_MAX_HEADERS,
            )
        return self._session

    def _open_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """The socket for a connection that is about to be opened: the last look at where it leads.

        Everything passes here, IP addresses in URLs (which no resolver sees) as well.
        """
        family, kind, protocol, _, target = info
        if not _allowed(target[0], self._allow_private):
            raise _Forbidden(FetchReason.ADDRESS, "leads to an address that is not public")
        return socket.socket(family=family, type=kind, proto=protocol)

    async def _system_lookup(self, host: str, port: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [str(entry[4][0]) for entry in found]


class _Forbidden(OSError):
    """A refusal in the one form that the library hands through."""

    def __init__(self, reason: FetchReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def _resolver(lookup: Lookup, allow_private: bool) -> Any:
    """aiohttp's resolver, which hands on checked addresses only."""
    from aiohttp.abc import AbstractResolver

    class Checked(AbstractResolver):
        """Asks, checks every address, and returns those that are allowed."""

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            try:
                found = await lookup(host, port)
            except (OSError, UnicodeError):
                raise _Forbidden(FetchReason.UNRESOLVED, "its name has no address") from None
            if not found:
                raise _Forbidden(FetchReason.UNRESOLVED, "its name has no address")
            allowed = [ip for ip in found if _allowed(ip, allow_private)]
            if not allowed:
                raise _Forbidden(FetchReason.ADDRESS, "its name leads to addresses that are not public")
            return [
                {
                    "hostname": host,
                    "host": ip,
                    "port": port,
                    "family": socket.AF_INET6 if ":" in ip else socket.AF_INET,
                    "proto": socket.IPPROTO_TCP,
                    "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                }
                for ip in allowed
            ]

        async def close(self) -> None:
            return None

    return Checked()


def _allowed(ip: str, allow_private: bool) -> bool:
    try:
        return address_allowed(ipaddress.ip_address(ip), allow_private=allow_private)
    except ValueError:
        return False


def _from_connector(error: aiohttp.ClientConnectorError, address: SafeUrl) -> FetchRefused:
    cause = error.os_error
    if isinstance(cause, _Forbidden):
        return FetchRefused(cause.reason, f"{address.origin} {cause.detail}")
    return FetchRefused(FetchReason.CONNECTION, f"{address.origin}: no connection ({type(error).__name__})")


def _redirected(response: aiohttp.ClientResponse, address: SafeUrl) -> str:
    target = response.headers.get("Location", "")
    response.close()  # its body is not wanted
    if not target:
        raise FetchRefused(FetchReason.REDIRECTS, f"{address.origin}: redirects to nowhere")
    try:
        return urllib.parse.urljoin(str(address), target)
    except ValueError:
        raise FetchRefused(FetchReason.BAD_URL, f"{address.origin}: redirects to what is no address") from None


def _check_head(body: bytearray, address: SafeUrl) -> None:
    if not looks_like_picture(bytes(body[:HEAD_BYTES])):
        raise FetchRefused(FetchReason.NOT_A_PICTURE, f"{address.origin}: no JPEG, PNG, WEBP, GIF or BMP")

"""A web server that means harm, on loopback: raw sockets, as an HTTP library would be too polite.

`CASES` says for each of its pages what a fetch and the preparing of what it gave must come to.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import io
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from PIL import Image

from envs.fetch.fetcher import FetchLimits, PictureFetcher
from envs.fetch.picture import prepare_in_thread
from envs.fetch.refusal import FetchReason, FetchRefused
from tests.envs.fetch import hostile_pictures as pictures

ACCEPTED = "accepted"
LIMITS = FetchLimits(timeout_s=20.0, max_bytes=256 * 1024, max_redirects=3, concurrency=100, per_host=100)
# For the pages that never come to an end by themselves.
IMPATIENT = replace(LIMITS, timeout_s=0.2)
MAX_PIXELS = 672 * 672 * 2
_MIB = 2**20
_JPEG = "Content-Type: image/jpeg"


class Server:
    """What the pages share: where the server listens, and what was asked of it and sent by it."""

    def __init__(self) -> None:
        self.port = 0
        self.sent: Counter[str] = Counter()
        self.requests: dict[str, list[bytes]] = {}
        self.asked_silent = asyncio.Event()
        self.accepted = 0
        self.open = 0
        self.most_open = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


class Page:
    """The answer to one request, as it is being written."""

    def __init__(self, server: Server, path: str, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self._path = path
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
        self.server.sent[self._path] += len(data)

    async def head(self, *lines: str, status: str = "200 OK") -> None:
        await self.send("\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1"))

    async def whole(self, body: bytes, *lines: str, status: str = "200 OK") -> None:
        await self.head(f"Content-Length: {len(body)}", *lines, status=status)
        await self.send(body)

    async def redirect(self, target: str, *lines: str) -> None:
        await self.whole(b"", f"Location: {target}", *lines, status="302 Found")


Answer = Callable[[Page], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Case:
    """A page, and what it must come to: `ACCEPTED`, or the reason why not."""

    name: str
    outcome: str
    answer: Answer
    path: str


CASES: list[Case] = []


def page(name: str, outcome: str) -> Callable[[Answer], Answer]:
    def add(answer: Answer) -> Answer:
        CASES.append(Case(name, outcome, answer, "/" + answer.__name__))
        return answer

    return add


def whole(name: str, outcome: str, make: Callable[[], bytes], *lines: str) -> None:
    body = functools.cache(make)

    async def answer(page: Page) -> None:
        await page.whole(body(), *lines)

    CASES.append(Case(name, outcome, answer, f"/whole{len(CASES)}.jpg"))


# --- time and bytes ------------------------------------------------------------------------------


@page("endless body", FetchReason.TOO_LARGE)
async def endless(page: Page) -> None:
    await page.head("Content-Type: image/jpeg")
    await page.send(pictures.jpeg())
    while True:
        await page.send(b"\0" * 65536)


@page("endless body in chunks", FetchReason.TOO_LARGE)
async def endless_chunks(page: Page) -> None:
    await page.head("Transfer-Encoding: chunked")
    await page.send(b"%x\r\n%b\r\n" % (len(pictures.jpeg()), pictures.jpeg()))
    while True:
        await page.send(b"10000\r\n" + b"\0" * 65536 + b"\r\n")


@page("a chunk of 2^60 bytes", FetchReason.TOO_LARGE)
async def giant_chunk(page: Page) -> None:
    await page.head("Transfer-Encoding: chunked")
    await page.send(b"1000000000000000\r\n" + pictures.jpeg())
    while True:
        await page.send(b"\0" * 65536)


@page("slow drip, a byte at a time", FetchReason.TIMEOUT)
async def drip(page: Page) -> None:
    await page.head("Content-Length: 1000")
    for byte in pictures.jpeg()[:1000]:
        await page.send(bytes([byte]))
        await asyncio.sleep(0.02)


@page("slow drip of headers", FetchReason.TIMEOUT)
async def drip_headers(page: Page) -> None:
    await page.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await page.send(b"X: y\r\n")
        await asyncio.sleep(0.02)


@page("never answers", FetchReason.TIMEOUT)
async def silent(page: Page) -> None:
    page.server.asked_silent.set()
    await asyncio.sleep(60)


@page("chunks without an end", FetchReason.TIMEOUT)
async def open_chunks(page: Page) -> None:
    await page.head("Transfer-Encoding: chunked")
    await page.send(b"%x\r\n%b\r\n" % (len(pictures.jpeg()), pictures.jpeg()))
    await asyncio.sleep(60)


@page("endless `100 Continue`", FetchReason.TIMEOUT)
async def endless_continue(page: Page) -> None:
    while True:
        await page.head(status="100 Continue")
        await asyncio.sleep(0.001)


@page("announces more than the limit", FetchReason.TOO_LARGE)
async def announces_much(page: Page) -> None:
    await page.head(f"Content-Length: {2**40}")
    await page.send(pictures.jpeg())
    await asyncio.sleep(60)


@page("fewer bytes than announced", FetchReason.LENGTH)
async def short(page: Page) -> None:
    await page.head("Content-Length: 5000")
    await page.send(pictures.jpeg())


@page("more bytes than announced", FetchReason.PROTOCOL)
async def long(page: Page) -> None:
    body = pictures.jpeg()
    await page.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(body) // 2) + body)


@page("chunks that break off", FetchReason.LENGTH)
async def broken_chunks(page: Page) -> None:
    await page.head("Transfer-Encoding: chunked")
    await page.send(b"%x\r\n%b" % (len(pictures.jpeg()) + 10, pictures.jpeg()))


@page("a body until the connection closes", ACCEPTED)
async def until_close(page: Page) -> None:
    await page.head("Connection: close")
    await page.send(pictures.jpeg())


# --- HTTP that is none ---------------------------------------------------------------------------


@page("closes at once", FetchReason.CONNECTION)
async def closes(page: Page) -> None:
    return None


@page("garbage for a status line", FetchReason.PROTOCOL)
async def garbage(page: Page) -> None:
    await page.send(b"\xff\xd8\xff\0 hello\r\n\r\n" + pictures.jpeg())


@page("a header of 1 MiB", FetchReason.PROTOCOL)
async def long_header(page: Page) -> None:
    await page.head("X: " + "y" * _MIB)


@page("10,000 headers", FetchReason.PROTOCOL)
async def many_headers(page: Page) -> None:
    await page.head(*(f"X-{i}: y" for i in range(10_000)))


@page("two lengths", FetchReason.PROTOCOL)
async def two_lengths(page: Page) -> None:
    await page.head("Content-Length: 10", f"Content-Length: {len(pictures.jpeg())}")
    await page.send(pictures.jpeg())


@page("a negative length", FetchReason.PROTOCOL)
async def negative_length(page: Page) -> None:
    await page.head("Content-Length: -5")
    await page.send(pictures.jpeg())


@page("404", FetchReason.STATUS)
async def not_found(page: Page) -> None:
    await page.whole(pictures.jpeg(), status="404 Not Found")


@page("500", FetchReason.STATUS)
async def broken(page: Page) -> None:
    await page.whole(pictures.jpeg(), status="500 Oh")


@page("206, a part", FetchReason.STATUS)
async def part(page: Page) -> None:
    await page.whole(pictures.jpeg(), status="206 Partial Content")


@page("101, another protocol", FetchReason.STATUS)
async def upgrade(page: Page) -> None:
    await page.head("Connection: Upgrade", "Upgrade: websocket", status="101 Switching Protocols")


# --- redirects -----------------------------------------------------------------------------------


def redirect(name: str, outcome: str, target: str) -> None:
    async def answer(page: Page) -> None:
        await page.redirect(target)

    CASES.append(Case(name, outcome, answer, f"/redirect{len(CASES)}"))


redirect("redirect to 169.254.169.254", FetchReason.ADDRESS, "http://169.254.169.254/latest/meta-data/")
redirect("redirect to it, as a number", FetchReason.BAD_URL, "http://2852039166/latest/meta-data/")
redirect("redirect to it, in IPv6", FetchReason.ADDRESS, "http://[::ffff:169.254.169.254]/")
redirect("redirect to a cloud's IPv6 metadata", FetchReason.ADDRESS, "http://[fd00:ec2::254]/")
redirect("redirect to port 22", FetchReason.ADDRESS, "http://127.0.0.1:22/")
redirect("redirect to file://", FetchReason.BAD_URL, "file:///etc/passwd")
redirect("redirect to data:", FetchReason.BAD_URL, "data:image/png;base64,AAAA")
redirect("redirect with a password", FetchReason.BAD_URL, "http://user:word@127.0.0.1/")
redirect("redirect to nowhere", FetchReason.REDIRECTS, "")


@page("redirect loop", FetchReason.REDIRECTS)
async def loop(page: Page) -> None:
    await page.redirect("/loop")


@page("4 redirects, 1 too many", FetchReason.REDIRECTS)
async def chain4(page: Page) -> None:
    await page.redirect("chain3")


@page("3 redirects", ACCEPTED)
async def chain3(page: Page) -> None:
    await page.redirect(page.server.url("/chain2"))


@page("2 redirects", ACCEPTED)
async def chain2(page: Page) -> None:
    await page.redirect("/chain1?x#y")


@page("a redirect that sets cookies", ACCEPTED)
async def chain1(page: Page) -> None:
    await page.redirect("/until_close", "Set-Cookie: id=1; Path=/", "Set-Cookie: id2=2")


# --- what is no picture, or one that does harm ---------------------------------------------------


def _gzip_bomb() -> bytes:
    return gzip.compress(b"\0" * 10_000_000, 9)


whole("empty body", FetchReason.LENGTH, lambda: b"")
whole("gzip bomb", FetchReason.ENCODING, _gzip_bomb, "Content-Encoding: gzip")
whole("gzip bomb that does not say so", FetchReason.NOT_A_PICTURE, _gzip_bomb)
whole(
    "Content-Encoding: deflate",
    FetchReason.ENCODING,
    lambda: zlib.compress(pictures.jpeg()),
    "Content-Encoding: deflate",
)
whole("Content-Encoding: br", FetchReason.ENCODING, pictures.jpeg, "Content-Encoding: br")
whole("Content-Encoding: identity, gzip", FetchReason.ENCODING, pictures.jpeg, "Content-Encoding: identity, gzip")
whole("HTML named .jpg", FetchReason.NOT_A_PICTURE, lambda: b"<!DOCTYPE html><html><img src=x></html>" * 9, _JPEG)
whole("SVG", FetchReason.NOT_A_PICTURE, lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>' * 9, _JPEG)
whole("TIFF", FetchReason.NOT_A_PICTURE, lambda: pictures.encoded(pictures.photo(), "TIFF"))
whole("a picture of 5 bytes", FetchReason.NOT_A_PICTURE, lambda: b"GIF89")
whole("JPEG's first bytes, then nothing", FetchReason.BAD_PICTURE, lambda: pictures.jpeg()[:40])
whole("truncated JPEG", FetchReason.BAD_PICTURE, lambda: pictures.cut(pictures.jpeg()))
whole("truncated GIF", FetchReason.BAD_PICTURE, lambda: pictures.many_frames_gif(1)[:40])
whole("PNG of 100,000 x 100,000", FetchReason.BAD_PICTURE, lambda: pictures.png_header(100_000, 100_000))
whole("PNG of 5,700 x 5,700 in 90 bytes", FetchReason.BAD_PICTURE, lambda: pictures.png_header(5_700, 5_700))
whole("PNG of 8 x 8 that unpacks to 16 MB", ACCEPTED, pictures.overflowing_png)
whole("JPEG of 2,000 scans", FetchReason.BAD_PICTURE, pictures.scan_bomb)
whole("run-length encoded BMP", FetchReason.BAD_PICTURE, pictures.rle_bmp)
whole("picture of 200:1", FetchReason.BAD_PICTURE, pictures.lopsided_png)
whole("GIF of 300 frames", ACCEPTED, pictures.many_frames_gif)
whole("CMYK JPEG", ACCEPTED, pictures.cmyk_jpeg)
whole("16-bit PNG", ACCEPTED, pictures.deep_png)
whole("palette with transparency", ACCEPTED, pictures.see_through_png)
whole("JPEG that says text/html", ACCEPTED, pictures.jpeg, "Content-Type: text/html")


async def to_name(page: Page) -> None:
    await page.redirect("http://metadata.example:8080/")


async def counted(page: Page) -> None:
    await page.whole(pictures.jpeg())


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    """The server, listening; its connections are cut at the end."""
    server = Server()
    pages = {case.path: case.answer for case in CASES} | {"/to_name": to_name, "/counted": counted}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.accepted += 1
        server.open += 1
        server.most_open = max(server.most_open, server.open)
        try:
            path = "/counted"
            while path == "/counted":  # the one page whose connection stays open
                request = await reader.readuntil(b"\r\n\r\n")
                path = request.split()[1].decode().partition("?")[0]
                server.requests.setdefault(path, []).append(request)
                await pages[path](Page(server, path, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the fetcher has had enough
        finally:
            server.open -= 1
            writer.close()

    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(connected(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def outcomes(server: Server) -> dict[str, str]:
    """What every case comes to, fetched all at once and then prepared; by name."""
    fetchers = {limits: PictureFetcher(limits, allow_private=True) for limits in (LIMITS, IMPATIENT)}
    async with fetchers[LIMITS], fetchers[IMPATIENT]:
        found = await asyncio.gather(
            *(
                _outcome(fetchers[IMPATIENT if case.outcome == FetchReason.TIMEOUT else LIMITS], server.url(case.path))
                for case in CASES
            )
        )
    return {case.name: outcome for case, outcome in zip(CASES, found, strict=True)}


async def _outcome(fetcher: PictureFetcher, url: str) -> str:
    try:
        picture = await prepare_in_thread(await fetcher.fetch(url), max_pixels=MAX_PIXELS)
    except FetchRefused as refused:
        return refused.reason.value
    with Image.open(io.BytesIO(picture.data)) as image:
        image.load()
        if (image.format, image.mode, image.size) != ("JPEG", "RGB", (picture.width, picture.height)):
            raise ValueError(f"{url}: accepted, but gave {image}")
    return ACCEPTED

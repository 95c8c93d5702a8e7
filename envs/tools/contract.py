"""The contract that every provider on the web keeps, as a check that anybody can run on theirs.

    python -m envs.tools.contract NAME            a provider that is built in or installed
    await check_provider(MyProvider)              in a test

Nothing is sent: the provider gets an `Api` that answers with whatever JSON can be, made of the very fields that the
provider looks at. Checked: the class says who it is; it asks within its endpoint, with the query as data, and shows a
key in headers alone; whatever is answered, it returns hits that are bounded and can be kept, or raises a
`ProviderError`; an error of the `Api` goes through. Knows nothing of any provider.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import reprlib
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from envs.limiter.gate import GateClosed
from envs.tools.api import check_endpoint
from envs.tools.provider import (
    Failure,
    Headers,
    ImageHits,
    ProviderError,
    ProviderSettings,
    Snippet,
    TextHits,
    WebProvider,
)
from sake_ray.types import SearchFailure

ENDPOINT = "https://contract.example/base"
KEY = "contract-key-0123456789"
QUERY = 'a&b=c d/../#e?"}\n<|im_end|> ü {x}'
MAX_STRING = 100_000
_STATUSES = (200, 204, 301, 400, 401, 402, 403, 404, 405, 408, 409, 413, 422, 429, 500, 502, 503, 504, 599)
_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**70, 1.5, "", "x", "https://a.example/p.jpg", "//a.example/p.jpg", "javascript:x",
    "file:///etc/passwd", "\ud800", "\x00\x1b", "http://[::", "x" * MAX_STRING, "https://a.example/" + "x" * MAX_STRING,
)  # fmt: skip


class ContractBroken(Exception):
    """A provider does not keep the contract; the message says how."""


class _Seen(dict[str, Any]):
    """An object of an answer that notes which of its fields anybody asked for."""

    def __init__(self, fields: Mapping[str, Any], names: set[str]) -> None:
        super().__init__(fields)
        self._names = names

    def get(self, name: Any, default: Any = None) -> Any:
        self._names.add(str(name))
        return super().get(name, default)

    def __getitem__(self, name: str) -> Any:
        self._names.add(str(name))
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self._names.add(str(name))
        return super().__contains__(name)


class _Maker:
    """Makes JSON of every shape out of the names that were asked for so far."""

    def __init__(self, seed: int) -> None:
        self.names: set[str] = set()
        self._random = random.Random(f"provider-contract-{seed}")

    def body(self) -> Any:
        return self._value(4)

    def _value(self, depth: int) -> Any:
        shape = self._random.random()
        if depth and shape < 0.5:
            names = sorted(self.names) or ["x"]
            chosen = self._random.sample(names, self._random.randint(0, len(names)))
            return _Seen({name: self._value(depth - 1) for name in chosen}, self.names)
        if depth and shape < 0.75:
            return [self._value(depth - 1) for _ in range(self._random.randint(0, 4))] * self._random.choice(
                (1, 1, 200)
            )
        if shape > 0.99:
            deep: Any = "x"
            for _ in range(500):
                deep = [deep]
            return deep
        return self._random.choice(_ODD)


class _Asked:
    """One request, as the provider wanted it."""

    def __init__(self, url: str, data: Mapping[str, Any], headers: Headers | None) -> None:
        self.url, self.data, self.headers = url, data, headers


class _FakeApi:
    """Answers with what `answer` gives, or raises it; keeps what it was asked."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer
        self.asked: list[_Asked] = []

    async def get_json(self, url: str, params: Mapping[str, str], headers: Headers | None = None) -> Any:
        if not all(isinstance(part, str) for pair in params.items() for part in pair):
            raise ContractBroken("get_json: parameters are texts, by texts")
        return await self._give(_Asked(url, params, headers))

    async def post_json(self, url: str, body: Mapping[str, Any], headers: Headers | None = None) -> Any:
        return await self._give(_Asked(url, body, headers))

    async def _give(self, asked: _Asked) -> Any:
        self.asked.append(asked)
        if len(self.asked) > 8:
            raise ContractBroken("a query takes more than 8 requests; retrying is the Api's")
        answer = self._answer()
        if isinstance(answer, Exception):
            raise answer
        return answer


async def check_provider(cls: type[WebProvider], *, tries: int = 300, seed: int = 0) -> None:
    """Check a provider's class, with `tries` made-up answers to each kind of query.

    Raises:
        ContractBroken: it does not keep the contract; the message says what was seen.
    """
    _check_class(cls)
    for graph_image in (False, True):
        settings = ProviderSettings(ENDPOINT, text_results=3, image_results=4, graph_image=graph_image)
        for kind in ("text", "images"):
            await _check_answers(cls, settings, kind, tries, seed)
            await _check_errors(cls, settings, kind)
    _check_judge(cls)


def _check_class(cls: type[WebProvider]) -> None:
    for name, wanted in (("NAME", str), ("NEEDS_KEY", bool), ("DEFAULT_ENDPOINT", str)):
        if not isinstance(getattr(cls, name, None), wanted):
            raise ContractBroken(f"{cls.__name__}.{name}: must be there, and a {wanted.__name__}")
    if not cls.NAME:
        raise ContractBroken(f"{cls.__name__}.NAME: must not be empty")
    if cls.DEFAULT_ENDPOINT:
        try:
            check_endpoint(cls.DEFAULT_ENDPOINT)
        except ValueError as error:
            raise ContractBroken(f"{cls.__name__}.DEFAULT_ENDPOINT: {error}") from error
    for name in ("text", "images"):
        if not inspect.iscoroutinefunction(getattr(cls, name, None)):
            raise ContractBroken(f"{cls.__name__}.{name}: must be an `async def`")


async def _check_answers(cls: type[WebProvider], settings: ProviderSettings, kind: str, tries: int, seed: int) -> None:
    maker = _Maker(seed)
    shown = False
    for number in range(tries):
        # The first answer has nothing but open ears: which fields is it asked for?
        body = _Seen({}, maker.names) if number == 0 else maker.body()
        api = _FakeApi(lambda body=body: body)  # type: ignore[misc]
        provider = cls(settings, api)
        try:
            hits = await _ask(provider, kind)
        except ProviderError:
            hits = None
        except ContractBroken:
            raise
        except Exception as error:  # whatever it is, it is not what a provider may raise
            told = f"{kind}: raised {type(error).__name__} ({error}) at the answer {_brief(body)}"
            raise ContractBroken(told) from error
        if not api.asked:
            raise ContractBroken(f"{kind}: nothing was asked through the Api")
        for asked in api.asked:
            shown |= _check_request(asked, kind)
        if hits is not None:
            _check_hits(hits, settings, kind, body)
    if cls.NEEDS_KEY and not shown:
        raise ContractBroken(f"{kind}: NEEDS_KEY, but no header ever holds the key; give `headers` to the Api")


def _check_request(asked: _Asked, kind: str) -> bool:
    """Whether the request shows the key in its headers."""
    if not (asked.url == ENDPOINT or asked.url.startswith(f"{ENDPOINT}/")):
        raise ContractBroken(f"{kind}: asked {asked.url}, which does not begin with settings.endpoint")
    if "?" in asked.url or "#" in asked.url or "im_end" in asked.url or ".." in asked.url:
        raise ContractBroken(f"{kind}: the query is data: it goes into params or body, not into the address")
    if QUERY not in _texts(asked.data):
        raise ContractBroken(f"{kind}: no parameter is the query as it was given (asked {_brief(asked.data)})")
    if asked.headers is None:
        return False
    for key in ("", KEY):
        headers = asked.headers(key)
        if not all(isinstance(part, str) and "\n" not in part for pair in headers.items() for part in pair):
            raise ContractBroken(f"{kind}: headers are texts of one line, by texts")
    return any(KEY in value for value in asked.headers(KEY).values())


def _check_hits(hits: object, settings: ProviderSettings, kind: str, body: object) -> None:
    where = f"{kind}: at the answer {_brief(body)}: "
    if kind == "text":
        if not isinstance(hits, TextHits) or not isinstance(hits.snippets, tuple):
            raise ContractBroken(f"{where}text() returns TextHits with a tuple, not {_brief(hits)}")
        if len(hits.snippets) > settings.text_results:
            raise ContractBroken(f"{where}{len(hits.snippets)} snippets, {settings.text_results} were asked for")
        snippets = (*hits.snippets, *((hits.graph,) if hits.graph is not None else ()))
        if not all(isinstance(snippet, Snippet) for snippet in snippets):
            raise ContractBroken(f"{where}a snippet is a Snippet")
        texts = [text for snippet in snippets for text in (snippet.title, snippet.text, snippet.url)]
        addresses = [snippet.url for snippet in snippets]
    else:
        if not isinstance(hits, ImageHits) or not isinstance(hits.urls, tuple):
            raise ContractBroken(f"{where}images() returns ImageHits with a tuple, not {_brief(hits)}")
        if len(hits.urls) > settings.image_results:
            raise ContractBroken(f"{where}{len(hits.urls)} addresses, {settings.image_results} were asked for")
        texts = addresses = [*hits.urls, hits.graph_url]
        if "" in hits.urls:
            raise ContractBroken(f"{where}an address is empty")
    _check_texts(texts, addresses, where)


def _check_texts(texts: Sequence[object], addresses: Sequence[str], where: str) -> None:
    for text in texts:
        if not isinstance(text, str) or len(text) >= MAX_STRING:
            raise ContractBroken(f"{where}a hit holds {_brief(text)}: must be a text, and not the whole of a long one")
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise ContractBroken(f"{where}a text has half a surrogate pair, which cannot be kept")
    for address in addresses:
        if address and not address.lower().startswith(("http://", "https://")):
            raise ContractBroken(f"{where}an address is {_brief(address)}: must be http or https, or left out")


async def _check_errors(cls: type[WebProvider], settings: ProviderSettings, kind: str) -> None:
    """A failure that a provider swallowed would be kept as "nothing was found"."""
    errors = [ProviderError(failure, "made up") for failure in Failure]
    for error in (*errors, GateClosed(SearchFailure.UNAVAILABLE, "made up")):
        try:
            await _ask(cls(settings, _FakeApi(lambda error=error: error)), kind)  # type: ignore[misc]
        except (ProviderError, GateClosed) as raised:
            if raised is error or isinstance(raised, ProviderError):
                continue
        raise ContractBroken(f"{kind}: swallowed the Api's {type(error).__name__}; let it through")


def _check_judge(cls: type[WebProvider]) -> None:
    maker = _Maker(0)
    maker.names |= {"message", "error", "code", "detail"}
    for status in _STATUSES:
        for _ in range(20):
            body = maker.body()
            verdict = cls.judge(status, body)
            if verdict is not None and not isinstance(verdict, Failure):
                raise ContractBroken(f"judge({status}, {_brief(body)}) is {verdict!r}: must be a Failure or None")


def _ask(provider: WebProvider, kind: str) -> Awaitable[object]:
    return provider.text(QUERY) if kind == "text" else provider.images(QUERY)


def _texts(value: object) -> list[object]:
    """All that stands anywhere in JSON."""
    if isinstance(value, Mapping):
        return [found for item in value.values() for found in _texts(item)]
    if isinstance(value, list | tuple):
        return [found for item in value for found in _texts(item)]
    return [value]


class _Short(reprlib.Repr):
    """Prints a few items of anything, our own objects included."""

    repr__Seen = reprlib.Repr.repr_dict


_SHORT = _Short()
_SHORT.maxdict = _SHORT.maxlist = 4
_SHORT.maxstring = _SHORT.maxother = 60


def _brief(value: object) -> str:
    """A few words of it; never walks through all of it."""
    return _SHORT.repr(value)


def main(arguments: Sequence[str]) -> int:
    """Check the provider of a name; returns the exit status."""
    from envs.tools.registry import provider_class

    if len(arguments) != 1:
        sys.stderr.write("python -m envs.tools.contract NAME: the provider to check\n")
        return 2
    try:
        asyncio.run(check_provider(provider_class(arguments[0])))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except ContractBroken as broken:
        sys.stderr.write(f"{arguments[0]} does not keep the contract: {broken}\n")
        return 1
    sys.stdout.write(f"{arguments[0]} keeps the contract\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

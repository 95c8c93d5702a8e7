"""A real browser for tests of pages: Chromium without a window, driven through its DevTools protocol.

Knows nothing of the pages. Always holds: the browser and its profile are gone when the block ends; what a page logs,
throws, asks the network for or refuses by its policy is kept; a browser is looked for in $CHROMIUM, then on the PATH.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ABSENT = f"no Chromium: install one (Debian: apt-get install chromium), or set CHROMIUM; looked for {', '.join(NAMES)}"
_KEYS = {"Escape": 27, "Enter": 13, "ArrowDown": 40, "ArrowUp": 38, "Tab": 9}
_START_S, _ANSWER_S = 60.0, 60.0  # hours would do: they only end a test that hangs


def chromium() -> str | None:
    """The browser's program, or None."""
    named = os.environ.get("CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


needs_chromium = pytest.mark.skipif(chromium() is None, reason=ABSENT)


class Page:
    """One tab; `problems` holds errors and warnings of its console, `requests` every address it asked for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._session: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.loaded = asyncio.Event()

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; a refusal raises RuntimeError."""
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters, **self._session})
        answer = await asyncio.wait_for(self._waiting[number], _ANSWER_S)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error'].get('message')}")
        result: dict[str, Any] = answer["result"]
        return result

    def attach(self, session: str) -> None:
        """Speak to this tab from now on, not to the browser."""
        self._session = {"sessionId": session}

    async def listen(self) -> None:
        """Take what the browser sends until it is gone."""
        async for message in self._socket:
            event = json.loads(message.data)
            waiting = self._waiting.pop(event.get("id", 0), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(event)
            self._note(event.get("method", ""), event.get("params", {}))

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self.loaded.set()
        elif method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(told["exceptionDetails"])[:2_000])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.problems.append(json.dumps(told["args"])[:500])
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.problems.append(told["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not told["request"]["url"].startswith("data:"):
            self.requests.append(told["request"]["url"])

    async def open(self, address: str) -> None:
        """Load an address, whole."""
        self.loaded.clear()
        await self.send("Page.navigate", url=address)
        await asyncio.wait_for(self.loaded.wait(), _ANSWER_S)

    async def run(self, script: str) -> Any:
        """The value of an expression; a promise is awaited."""
        answer = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:2_000])
        return answer["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression is true."""
        await self.run(
            f"new Promise((done) => {{ const ask = () => ({script}) ? done(1) : setTimeout(ask, 20); ask(); }})"
        )

    async def press(self, key: str) -> None:
        """Press a key, as a person does."""
        printed = {"text": key} if len(key) == 1 else {}
        code = {"windowsVirtualKeyCode": _KEYS.get(key, ord(key[0].upper()))}
        await self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **printed, **code)
        await self.send("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    async def size(self, width: int, height: int, scale: float = 1.0) -> None:
        """The window's size in CSS pixels; under 600 wide it is a phone's."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )

    async def dark(self, dark: bool) -> None:
        """What `prefers-color-scheme` says."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[feature])

    async def screenshot(self) -> bytes:
        """What is in the window, as a PNG."""
        shot = await self.send("Page.captureScreenshot", format="png")
        return base64.b64decode(shot["data"])


@asynccontextmanager
async def open_browser() -> AsyncIterator[Page]:
    """A browser with one empty tab."""
    program = chromium()
    if program is None:
        raise RuntimeError(ABSENT)
    profile = tempfile.mkdtemp(prefix="chromium-")
    # No sandbox: containers have none to give, and the pages are the test's own.
    options = (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
        "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--lang=en-US",
        "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
    )  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        program, *options, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    try:
        address = await asyncio.wait_for(_address(process), _START_S)
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(address, max_msg_size=0, heartbeat=None) as socket,
        ):
            page = Page(socket)
            listening = asyncio.create_task(page.listen())
            try:
                yield await _tab(page)
            finally:
                listening.cancel()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        shutil.rmtree(profile, ignore_errors=True)


async def _address(process: asyncio.subprocess.Process) -> str:
    told = []
    while line := await process.stderr.readline():  # type: ignore[union-attr]
        told.append(line.decode("utf-8", "replace"))
        if "DevTools listening on " in told[-1]:
            return told[-1].partition("DevTools listening on ")[2].strip()
    raise RuntimeError(f"the browser ended: {''.join(told)[-2_000:]}")


async def _tab(page: Page) -> Page:
    targets = (await page.send("Target.getTargets"))["targetInfos"]
    target = next(one["targetId"] for one in targets if one["type"] == "page")
    attached = await page.send("Target.attachToTarget", targetId=target, flatten=True)
    page.attach(attached["sessionId"])
    for domain in ("Page", "Runtime", "Log", "Network"):
        await page.send(f"{domain}.enable")
    return page

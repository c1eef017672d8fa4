"""A real browser for tests: Chromium without a window, driven over two pipes (no port is opened).

The protocol is Chromium's own (https://chromedevtools.github.io/devtools-protocol/), one JSON
message after the other with a zero byte between.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0
NAMES = ("chromium", "chromium-browser", "google-chrome")
KEYS = {"Tab": 9, "Enter": 13}
FLAGS = (
    "--headless",
    "--no-sandbox",  # containers have no user namespaces; only our own pages are opened
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-pipe",
)


class Tab:
    """One page of a browser, and what happened on it."""

    def __init__(self, browser: "Browser") -> None:
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """A command of the protocol, for this page."""
        return self._browser.call(method, self._session, **parameters)

    def open(self, address: str) -> None:
        """Go to an address as if it were typed, and wait until all is loaded."""
        with self.loading():
            self.call("Page.navigate", url=address)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """What is done inside leads to another page; wait for it."""
        seen = len(self.events("Page.loadEventFired"))
        yield
        self._browser.wait(lambda: len(self.events("Page.loadEventFired")) > seen)

    def events(self, method: str) -> list[dict[str, Any]]:
        """What happened so far on this page."""
        return [
            event["params"]
            for event in self._browser.events
            if event["method"] == method and event.get("sessionId") == self._session
        ]

    def value(self, expression: str) -> Any:
        """The value of an expression of JavaScript; a promise's is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, times: int = 1) -> None:
        """Press a key of the keyboard."""
        text = {"text": "\r"} if key == "Enter" else {}
        code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        for _ in range(times):
            self.call("Input.dispatchKeyEvent", type="keyDown", **code, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def write(self, text: str) -> None:
        """Type into the field that has the focus."""
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int, *, scale: int = 1) -> None:
        """The size of the window, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale}
        self.call("Emulation.setDeviceMetricsOverride", **size, mobile=width < 600)

    def prefer(self, scheme: str) -> None:
        """Ask pages for `light` or `dark` colours."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def picture(self, path: Path) -> None:
        """Save the page as a PNG, in its whole height."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))


class Browser:
    """A running browser; `browser(profile)` makes one."""

    def __init__(self, process: subprocess.Popen, write: int, read: int) -> None:
        self._process = process
        self._write, self._read = write, read
        self._received = b""
        self._count = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        """A command of the protocol; an error of it fails."""
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": parameters}
        message |= {} if session is None else {"sessionId": session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        self.wait(lambda: number in self._answers)
        answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def wait(self, condition) -> None:
        """Take in what the browser says until something holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, "the browser did not answer in time"
            if select.select([self._read], [], [], left)[0]:
                part = os.read(self._read, 1 << 20)
                assert part, f"the browser ended with {self._process.wait()}"
                *messages, self._received = (self._received + part).split(b"\0")
                for message in map(json.loads, messages):
                    if "id" in message:
                        self._answers[message["id"]] = message
                    else:
                        self.events.append(message)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a new profile in a folder; it ends with the block."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    assert program is not None, "this test needs a browser: apt-get install chromium"
    commands, write = os.pipe()
    read, answers = os.pipe()
    # The browser reads 3 and writes 4; higher numbers first, so that neither is in the way.
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
    flags = [*FLAGS, f"--user-data-dir={profile}"]
    with (profile / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]}', "-", program, *flags],
            pass_fds=high,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    for end in (commands, answers, *high):
        os.close(end)
    started = Browser(process, write, read)
    try:
        yield started
        started.call("Browser.close")
    finally:
        os.close(write)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(read)

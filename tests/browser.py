"""Debian's chromium without a window, driven over a pipe (Chrome DevTools Protocol).

Where there is no chromium a test is skipped; with ``CI=true`` its absence is a failure.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest


def chromium() -> str:
    """Path of the browser; skips the test (fails in CI) where there is none."""
    for name in ('chromium', 'chromium-browser', 'google-chrome'):
        if found := shutil.which(name):
            return found
    if os.environ.get('CI') == 'true':
        pytest.fail('No chromium: CI needs one (apt install chromium).')
    pytest.skip('No chromium to look at the page with (apt install chromium).')


class Page:
    """One page at one size; what it asks for, logs and throws is kept.

    Args:
        path: HTML file.
        width: Of the window in CSS pixels.
        height: Likewise.
        dark: The reader prefers dark pages.

    Attributes:
        requests: Addresses that were asked for, the page's own and ``data:`` left out.
        errors: Exceptions, console errors and warnings, and what the browser refused.
    """

    def __init__(self, path: Path, width: int = 1200, height: int = 900, dark: bool = False):
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._folder = tempfile.mkdtemp()
        self._number, self._buffer = 0, b''
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        options = (
            '--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run '
            '--disable-background-networking --hide-scrollbars --remote-debugging-pipe'
        )
        # The browser reads file descriptor 3 and writes 4. Debian's sh stops at 9.
        line = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ['bash', '-c', line, chromium(), *options.split(), f'--user-data-dir={self._folder}'],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._session = None
        try:
            self._open(path, width, height, dark)
        except BaseException:
            self.__exit__()  # nobody else will
            raise

    def _open(self, path: Path, width: int, height: int, dark: bool) -> None:
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Network', 'Log'):
            self.call(f'{domain}.enable')
        size = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call('Emulation.setDeviceMetricsOverride', **size)
        scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        self.call('Emulation.setEmulatedMedia', features=[scheme])
        self._address = path.resolve().as_uri()
        self.call('Page.navigate', url=self._address)
        self.wait('document.readyState === "complete" && location.protocol === "file:"')

    def __enter__(self) -> 'Page':
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, script: str) -> Any:
        """Value of an expression in the page."""
        found = self.call('Runtime.evaluate', expression=script, returnByValue=True)
        assert 'exceptionDetails' not in found, found
        return found['result'].get('value')

    def wait(self, script: str, seconds: float = 30) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f'never true: {script}'
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """On the middle of an element, as a finger would."""
        x, y = self.run(
            f'(() => {{const e = document.querySelector({selector!r}); e.scrollIntoView('
            "{block: 'center', inline: 'center'}); const r = e.getBoundingClientRect();"
            'return [r.x + r.width / 2, r.y + r.height / 2]})()'
        )
        for kind in ('mousePressed', 'mouseReleased'):
            self.call('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)

    def screenshot(self, out: Path) -> None:
        """The whole page as PNG."""
        content = self.call('Page.captureScreenshot', captureBeyondViewport=True)
        out.write_bytes(base64.b64decode(content['data']))

    def call(self, method: str, **params: Any) -> dict:
        """A command of the protocol, and its answer."""
        self._number += 1
        message = {'id': self._number, 'method': method, 'params': params}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._out, json.dumps(message).encode() + b'\0')
        end = time.monotonic() + 60
        while True:
            answer = self._read(end)
            if answer.get('id') == self._number:
                assert 'error' not in answer, answer
                return answer['result']
            self._keep(answer.get('method'), answer.get('params', {}))

    def _read(self, end: float) -> dict:
        while b'\0' not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(end - time.monotonic(), 0))
            assert ready, 'chromium does not answer'
            part = os.read(self._in, 1 << 20)
            assert part, 'chromium has ended'
            self._buffer += part
        text, self._buffer = self._buffer.split(b'\0', 1)
        return json.loads(text)

    def _keep(self, method: str | None, event: dict) -> None:
        if method == 'Network.requestWillBeSent':
            address = event['request']['url']
            if address != self._address and not address.startswith('data:'):
                self.requests.append(address)
        elif method == 'Runtime.exceptionThrown':
            self.errors.append(str(event['exceptionDetails']))
        elif method == 'Runtime.consoleAPICalled' and event['type'] in ('error', 'warning'):
            self.errors.append(str(event['args']))
        elif method == 'Log.entryAdded' and event['entry']['level'] in ('error', 'warning'):
            self.errors.append(event['entry']['text'])

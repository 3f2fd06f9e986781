"""The API, asked by a script of a page of another origin, in headless Chromium."""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import CHROMIUM, tone
from served import served
from test_browser import FLAGS, PATIENCE

from evoxtral import audio
from evoxtral.serve.api import Options, create_app

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser

ASK = """async ({url, clip, fields}) => {
  const form = new FormData();
  const bytes = Uint8Array.from(atob(clip), character => character.charCodeAt(0));
  form.append("file", new Blob([bytes]), "clip.wav");
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  const headers = {Authorization: "Bearer none"};  // asks the server beforehand
  try {
    const answer = await fetch(url, {method: "POST", body: form, headers});
    return [answer.status, answer.headers.get("x-request-id"), await answer.text()];
  } catch (error) { return [0, null, String(error)]; }
}"""


class Empty(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Another page</title>")

    def log_message(self, *_):
        pass


@contextmanager
def page_server() -> Iterator[str]:
    """A page of an origin of its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def start(driver):
    return driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE)


def test_fetch_from_an_allowed_origin_and_from_another(engine):
    with page_server() as allowed, page_server() as other, playwright.sync_playwright() as driver:
        app = create_app(engine, options=Options(origins=[allowed]))
        with served(app) as url, start(driver) as browser:
            page = browser.new_page()
            page.set_default_timeout(PATIENCE)

            def ask(fields: dict[str, str]) -> list:
                clip = base64.b64encode(audio.wav_bytes(tone(0.6))).decode()
                return page.evaluate(ASK, {"url": f"{url}/v1/audio/transcriptions", "clip": clip, "fields": fields})

            page.goto(allowed)
            status, request, streamed = ask({"model": "evoxtral-rl", "stream": "true"})
            assert status == 200 and request.startswith("req_")
            assert "transcript.text.done" in streamed and streamed.endswith("\n\n")
            status, _, refused = ask({"model": "gpt-9"})
            assert status == 404 and "model_not_found" in refused, "a page reads errors, too"
            page.goto(other)
            assert ask({"model": "evoxtral-rl"})[0] == 0

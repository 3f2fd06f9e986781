#!/usr/bin/env bash
# mistralai's client reads no OpenAI-shaped list of models, and always sends `diarize` with a transcription.
#
# A list {"object": "list", "data": [{"id", "object", "created", "owned_by"}]} is what most compatible servers give, and
# `models.list()` fails on all of it: an entry needs `type` ("base") and `capabilities` beside. With them it is read.
# `audio.transcriptions.complete` sends `diarize=false` and `stream=false` though nobody asked, which tells a server that
# shares the route with OpenAI's clients which of the two asks.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mistralai==3.7.0
cat > "$folder/watch.py" <<'PY'
import importlib.metadata
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from mistralai.client import Mistral
from mistralai.client.errors import ResponseValidationError

MODEL = {"id": "m", "object": "model", "created": 0, "owned_by": "me"}
THEIRS = {"type": "base", "capabilities": {"completion_chat": False}}
entry, sent = {}, []


class Handler(BaseHTTPRequestHandler):
    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"object": "list", "data": [MODEL | entry]})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode("latin-1")
        sent.extend(re.findall(r'name="(\w+)"', body))
        self.answer({"model": "m", "text": "", "language": None, "usage": {}})

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = Mistral(api_key="none", server_url=f"http://127.0.0.1:{server.server_port}")


def listed():
    try:
        return [model.id for model in client.models.list().data]
    except ResponseValidationError:
        return "ResponseValidationError"


plain = listed()
entry.update(THEIRS)
whole = listed()
client.audio.transcriptions.complete(model="m", file={"content": b"RIFF", "file_name": "a.wav"})
print("mistralai", importlib.metadata.version("mistralai"))
print("OpenAI-shaped list of models:", plain)
print("with type and capabilities:  ", whole)
print("fields of a transcription:   ", *sorted(sent))
sys.exit(not (plain == "ResponseValidationError" and whole == ["m"] and {"diarize", "stream"} <= {*sent}))
PY
"$folder/venv/bin/python" "$folder/watch.py"

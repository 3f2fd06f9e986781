#!/usr/bin/env bash
# Gradio: an app that nobody visits is not idle. Its queue looks for work by sleeping a millisecond at a time, hundreds of
# times a second, which takes 3 % of a core or more for as long as the app runs (on Windows it sleeps 50 ms).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "gradio==6.31.0"
cd "$folder"
GRADIO_ANALYTICS_ENABLED=False "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import asyncio
import time
from importlib.metadata import version

import gradio

looks, sleep = [], asyncio.sleep


def counted(delay, *result):
    looks.append(delay)
    return sleep(delay, *result)


asyncio.sleep = counted
with gradio.Blocks() as page:
    gradio.Button("Go").click(lambda: None)
page.launch(prevent_thread_lock=True, quiet=True)
time.sleep(3)  # the start is over
looks.clear()
begun, used = time.monotonic(), time.process_time()
time.sleep(10)
took, used = time.monotonic() - begun, time.process_time() - used
page.close()
print(f"gradio {version('gradio')}, nobody visits: {len(looks) / took:.0f} looks a second, of {min(looks)} s each")
print(f"{100 * used / took:.1f} % of a core")
raise SystemExit(0 if min(looks) == 0.001 and len(looks) / took > 50 else 1)
PYTHON

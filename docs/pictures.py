"""The pictures of the documents: `python docs/pictures.py` writes those of README.md into docs/images/, and
`python docs/pictures.py --dashboard runs/mine` that of docs/training.md: a run on Trackio's dashboard.

pipeline.svg is drawn here; compare.png is a screenshot of the app with the scale model, in headless Chromium, and
walk.webp a few of them, from the microphone to the columns.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
CLIP = ROOT / "examples" / "confession.flac"
VOICE = "natural:nova"  # one of the six that training never hears
SAID = "[sighs] I left my umbrella on the train again. [laughs] That is the third one this month!"
PATIENCE = 600_000  # ms; only ends what hangs
CURVES = "^sft/(loss|norm|validation_loss|shown_tag_f1)"  # on the dashboard

WIDTH, HEIGHT = 1120, 190
BOX, GAP, TOP = 160, 22, 56  # px
STEPS = (
    ("waveform", "16 kHz, mono"),
    ("voice activity", "silence is left out"),
    ("log-mel", "windows of 10 or 30 s"),
    ("encoder", "12.5 tokens a second"),
    ("language model", "LoRA: Base, SFT or RL"),
    ("tagged text", "[sighs] I TOLD you."),
)
STYLE = """
  text { font: 600 15px system-ui, sans-serif; fill: #1f2933; text-anchor: middle }
  text.note { font: 400 13.5px system-ui, sans-serif; fill: #52606d }
  rect { fill: #eef2ff; stroke: #4f46e5; stroke-width: 1.5 }
  rect.end { fill: #fdf2f8; stroke: #db2777 }
  path { stroke: #52606d; stroke-width: 1.8; fill: none }
  path.sound { stroke: #4f46e5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f5f7fa } text.note { fill: #cbd2d9 }
    rect { fill: #1e1b4b; stroke: #a5b4fc } rect.end { fill: #500724; stroke: #f9a8d4 }
    path { stroke: #cbd2d9 } path.sound { stroke: #a5b4fc }
  }
"""


def pipeline() -> str:
    """From sound to tagged text, as SVG that follows the reader's light or dark colours."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title">',
        '<title id="title">Waveform, voice activity, log-mel, encoder, language model with LoRA, tagged text</title>',
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8" /></marker></defs>',
    ]
    left = (WIDTH - len(STEPS) * BOX - (len(STEPS) - 1) * GAP) / 2
    middle = TOP + 40
    for i, (name, note) in enumerate(STEPS):
        x = left + i * (BOX + GAP)
        kind = ' class="end"' if i == len(STEPS) - 1 else ""
        parts.append(f'<rect{kind} x="{x:g}" y="{TOP}" width="{BOX}" height="80" rx="10" />')
        parts.append(f'<text x="{x + BOX / 2:g}" y="{middle - 2}">{name}</text>')
        parts.append(f'<text class="note" x="{x + BOX / 2:g}" y="{middle + 20}">{note}</text>')
        if i:
            parts.append(f'<path d="M{x - GAP + 2:g} {middle} H{x - 3:g}" marker-end="url(#head)" />')
    heights = (4, 10, 18, 8, 14, 22, 9, 16, 6, 12, 20, 7)
    strokes = " ".join(f"M{left + 10 + 10.5 * n:g} {30 - h / 1.4:g} V{30 + h / 1.4:g}" for n, h in enumerate(heights))
    parts.append(f'<path class="sound" d="{strokes}" />')
    parts.append(
        f'<text class="note" x="{left + 4.5 * (BOX + GAP) - GAP / 2:g}" y="{TOP + 108}">'
        "one batch, one base in memory, an adapter for each row</text></svg>"
    )
    return "\n".join(parts) + "\n"


@contextmanager
def app_page(*flags: str) -> Iterator["Page"]:
    """The app with the scale model, in headless Chromium."""
    from playwright.sync_api import expect

    sys.path.insert(0, str(ROOT / "tests"))
    from launched import app_url

    with browser_page(*flags) as page:
        page.goto(app_url())
        expect.set_options(timeout=PATIENCE)
        expect(page.locator(".ev-model b")).to_be_visible()
        yield page


@contextmanager
def browser_page(*flags: str) -> Iterator["Page"]:
    """An empty page of headless Chromium."""
    from playwright.sync_api import sync_playwright

    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser_path is None:
        sys.exit("There is no Chromium on this machine: install the package `chromium`.")
    with sync_playwright() as tool:
        browser = tool.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-gpu", *flags], timeout=PATIENCE
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def compared(page: "Page") -> bytes:
    """The Compare tab when every variant has transcribed the clip that is there."""
    from playwright.sync_api import expect

    expect(page.locator("#clip .timestamps")).to_be_visible()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator(".ev-exports")).to_have_count(3)
    return settled(page)


def settled(page: "Page") -> bytes:
    page.wait_for_timeout(1000)  # fonts and the waveform settle
    return page.screenshot()


def screenshot(path: Path) -> None:
    """The Compare tab after an example was transcribed by all variants."""
    with app_page() as page:
        page.locator('#clip input[type="file"]').set_input_files(str(CLIP))
        path.write_bytes(compared(page))


def walk(path: Path) -> None:
    """From the microphone to the columns, as an animated WebP. Into the microphone speaks a natural voice that training
    has never heard; it needs the extra `voices`.
    """
    from PIL import Image
    from playwright.sync_api import expect

    from evoxtral import audio, speech

    waveform = speech.speak(SAID, VOICE, 1).waveform
    seconds = audio.duration(waveform)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "said.wav")
        audio.save(clip, waveform)
        heard = f"--use-file-for-fake-audio-capture={clip}%noloop"
        with app_page("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", heard) as page:
            frames = [settled(page)]
            page.get_by_label("Record audio").click()
            page.locator("#clip .record-button").click()
            page.wait_for_timeout(1500)
            frames.append(page.screenshot())
            clock = re.compile("|".join(f"0:{second:02d}" for second in range(int(seconds) + 1, 60)))
            expect(page.locator("#clip .timestamps")).to_contain_text(clock)
            page.locator("#clip .stop-button:visible, #clip .stop-button-paused:visible").first.click()
            expect(page.locator("#about-clip")).to_contain_text("s of audio")
            frames += [settled(page), compared(page)]
    images = [Image.open(BytesIO(frame)).resize((960, 600)) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=[1500, 1500, 1500, 6000], loop=0, quality=55)


def dashboard(run: Path, path: Path) -> None:
    """A finished run on Trackio's dashboard: the curves of SFT."""
    from PIL import Image

    sys.path.insert(0, str(ROOT / "tests"))
    from launched import free_port

    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        there = os.environ | {"TRACKIO_DIR": folder, "GRADIO_SERVER_PORT": str(port), "BROWSER": "true"}
        tracking = [sys.executable, str(ROOT / "training" / "tracking.py"), str(run), "--track", "trackio"]
        subprocess.run(tracking, env=there, check=True)
        show = [str(Path(sys.executable).with_name("trackio")), "show", "--project", "evoxtral"]
        with subprocess.Popen(show, env=there) as server, browser_page() as page:
            try:
                _answering(page, f"http://127.0.0.1:{port}/?project=evoxtral")
                page.get_by_placeholder("e.g., loss|ndcg@10|gpu").fill(CURVES)
                page.locator('input[type="range"]').first.fill("0")  # curves as they are, not smoothed
                page.get_by_text("validation_loss").first.wait_for()
                page.wait_for_timeout(3000)  # the curves are drawn
                shot = page.screenshot()
            finally:
                server.terminate()
    Image.open(BytesIO(shot)).convert("RGB").save(path, quality=60)


def _answering(page: "Page", address: str) -> None:
    """Open a page whose server is still starting."""
    from playwright.sync_api import Error

    while True:
        try:
            page.goto(address, wait_until="domcontentloaded")
            return
        except Error:
            page.wait_for_timeout(500)


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    if sys.argv[1:2] == ["--dashboard"]:
        dashboard(Path(sys.argv[2]), IMAGES / "dashboard.webp")
        sys.exit()
    (IMAGES / "pipeline.svg").write_text(pipeline(), encoding="utf-8")
    screenshot(IMAGES / "compare.png")
    walk(IMAGES / "walk.webp")

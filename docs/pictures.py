"""The pictures of README.md: `python docs/pictures.py` writes them all into docs/images/.

pipeline.svg is drawn here; compare.png is a screenshot of the app with the scale model, in headless Chromium.
"""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
CLIP = ROOT / "examples" / "confession.flac"

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


def screenshot(path: Path) -> None:
    """The Compare tab after an example was transcribed by all variants."""
    from playwright.sync_api import expect, sync_playwright

    sys.path.insert(0, str(ROOT / "tests"))
    from launched import app_url

    patience = 600_000  # ms; only ends what hangs
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser_path is None:
        sys.exit("There is no Chromium on this machine: install the package `chromium`.")
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(patience)
        page.goto(app_url())
        expect(page.locator(".ev-model b")).to_be_visible(timeout=patience)
        page.locator('#clip input[type="file"]').set_input_files(str(CLIP))
        expect(page.locator("#clip .timestamps")).to_be_visible(timeout=patience)
        page.get_by_role("button", name="Compare", exact=True).click()
        expect(page.locator(".ev-exports")).to_have_count(3, timeout=patience)
        page.wait_for_timeout(1000)  # fonts and the waveform settle
        page.screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "pipeline.svg").write_text(pipeline(), encoding="utf-8")
    screenshot(IMAGES / "compare.png")

"""The pictures of README.md are there, and are what `python docs/pictures.py` draws."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import pictures  # noqa: E402


def test_the_pipeline_picture_equals_the_output_of_its_command():
    drawn = (pictures.IMAGES / "pipeline.svg").read_text(encoding="utf-8")
    assert drawn == pictures.pipeline()
    texts = [element.text for element in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
    assert all(name in texts and note in texts for name, note in pictures.STEPS)


def test_the_screenshot_is_a_small_png():
    content = (pictures.IMAGES / "compare.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) < 300_000


def test_the_walk_is_a_small_animation_of_four_pictures():
    from PIL import Image

    path = pictures.IMAGES / "walk.webp"
    with Image.open(path) as image:
        assert image.format == "WEBP" and image.n_frames == 4
    assert path.stat().st_size < 300_000


def test_the_dashboard_is_a_small_picture_that_the_document_shows():
    from PIL import Image

    path = pictures.IMAGES / "dashboard.webp"
    with Image.open(path) as image:
        assert image.format == "WEBP" and image.size == (1280, 800)
    assert path.stat().st_size < 100_000
    assert "images/dashboard.webp" in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")

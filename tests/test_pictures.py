"""The pictures of README.md are there, and are what `python docs/pictures.py` draws."""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import pictures  # noqa: E402


def test_every_picture_of_the_readme_exists():
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(shown) >= 2 and all((ROOT / picture).stat().st_size > 1000 for picture in shown)


def test_the_pipeline_picture_equals_the_output_of_its_command():
    drawn = (pictures.IMAGES / "pipeline.svg").read_text(encoding="utf-8")
    assert drawn == pictures.pipeline()
    texts = [element.text for element in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
    assert all(name in texts and note in texts for name, note in pictures.STEPS)

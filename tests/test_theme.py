"""The palette: readable in light and dark, and never colour alone."""

import itertools
import re

import pytest

from evoxtral import tags
from evoxtral.ui import theme
from evoxtral.ui.theme import Ink

AA_TEXT, AA_GRAPHICS = 4.5, 3.0  # https://www.w3.org/TR/WCAG22/#contrast-minimum, #non-text-contrast


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" (https://www.w3.org/TR/WCAG22/#dfn-relative-luminance)."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def inks(mode: str) -> dict[str, Ink]:
    page = {
        name: inks[mode]
        for name, inks in {
            "paper": theme.PAPER,
            "page": theme.PAGE,
            "accent": theme.ACCENT,
            "alarm": theme.ALARM,
            "difference": theme.DIFFERENCE,
        }.items()
    }
    muted = {f"muted on {g}": Ink(theme.MUTED[mode].text, i[mode].ground) for g, i in
             {"page": theme.PAGE, "paper": theme.PAPER}.items()}  # fmt: skip
    links = {f"link on {g}": Ink(theme.ACCENT[mode].ground, i[mode].ground) for g, i in
             {"page": theme.PAGE, "paper": theme.PAPER}.items()}  # fmt: skip
    looks = {
        name: {"light": look.light, "dark": look.dark}[mode] for name, look in theme.CATEGORY_LOOKS.items()
    }
    return page | muted | links | looks


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_text_is_readable_on_its_ground(mode):
    for name, ink in inks(mode).items():
        assert contrast(ink.text, ink.ground) >= AA_TEXT, name


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_bars_stand_out_from_the_paper_and_from_each_other(mode):
    for colour in theme.SERIES[mode]:
        assert contrast(colour, theme.PAPER[mode].ground) >= AA_GRAPHICS
    for one, other in itertools.pairwise(theme.SERIES[mode][1:]):
        assert contrast(one, other) >= 1.5


def test_a_ticked_box_shows_its_tick():
    for ground in (theme.ACCENT["light"].ground, theme.CHECKED):
        assert contrast("#ffffff", ground) >= AA_GRAPHICS


def test_every_category_has_a_look_of_its_own_beyond_colour():
    assert tuple(theme.CATEGORY_LOOKS) == tags.CATEGORIES
    assert len({look.icon for look in theme.CATEGORY_LOOKS.values()}) == len(tags.CATEGORIES)


def test_the_stylesheet_names_no_colour_of_its_own():
    values = re.findall(r":([^;{}]*);", theme.STYLESHEET.read_text(encoding="utf-8"))
    assert not [value for value in values if re.search(r"#[0-9a-fA-F]{3,8}\b|rgba?[(]|hsl", value)]


def test_every_colour_that_the_stylesheet_uses_is_in_the_palette():
    used = set(re.findall(r"var\(--ev-([\w-]+)", theme.STYLESHEET.read_text(encoding="utf-8")))
    given = set(re.findall(r"--ev-([\w-]+):", theme.variables("light") + theme.css()))
    set_on_elements = {"sure", "value", "from", "to"}
    assert used <= given | set_on_elements


def test_the_theme_fetches_nothing_from_other_sites():
    assert "http" not in theme.css().replace("http://www.w3.org/2000/svg", "").replace(
        "http%3A//www.w3.org", ""
    )
    assert not theme.theme()._stylesheets

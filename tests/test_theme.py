"""The palette: readable in light and dark, and never colour alone."""

import itertools
import re

import numpy as np
import pytest

from evoxtral import tags
from evoxtral.ui import theme
from evoxtral.ui.theme import ColourPair

# What linear sRGB becomes to eyes without one kind of cone: Machado, Oliveira and Fernandes, "A physiologically-based
# model for simulation of color vision deficiency", 2009, severity 1.0.
SIGHT = {
    "three cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = XYZ.sum(axis=1)
TOLD_APART = 10.0  # CIE76 ΔE; 2.3 is just noticeable side by side
AA_TEXT, AA_GRAPHICS = 4.5, 3.0  # https://www.w3.org/TR/WCAG22/#contrast-minimum, #non-text-contrast


def linear(colour: str) -> np.ndarray:
    """ "#rrggbb" → linear sRGB (3,), 0 to 1."""
    shares = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" (https://www.w3.org/TR/WCAG22/#dfn-relative-luminance)."""
    return float(XYZ[1] @ linear(colour))


def lab(rgb: np.ndarray) -> np.ndarray:
    """Linear sRGB → CIELAB."""
    t = XYZ @ rgb / WHITE
    x, y, z = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def pairs_of(mode: str) -> dict[str, ColourPair]:
    page = {
        name: pairs_of[mode]
        for name, pairs_of in {
            "surface": theme.SURFACE,
            "background": theme.BACKGROUND,
            "accent": theme.ACCENT,
            "error": theme.ERROR,
            "difference": theme.DIFFERENCE,
        }.items()
    }
    muted = {f"muted on {g}": ColourPair(theme.MUTED[mode].text, i[mode].ground) for g, i in
             {"background": theme.BACKGROUND, "surface": theme.SURFACE}.items()}  # fmt: skip
    links = {f"link on {g}": ColourPair(theme.ACCENT[mode].ground, i[mode].ground) for g, i in
             {"background": theme.BACKGROUND, "surface": theme.SURFACE}.items()}  # fmt: skip
    styles = {name: {"light": style.light, "dark": style.dark}[mode] for name, style in theme.CATEGORY_STYLES.items()}
    return page | muted | links | styles


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_text_has_sufficient_contrast(mode):
    for name, pair in pairs_of(mode).items():
        assert contrast(pair.text, pair.ground) >= AA_TEXT, name


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_bars_contrast_with_the_surface_and_with_each_other(mode):
    for colour in theme.SERIES[mode]:
        assert contrast(colour, theme.SURFACE[mode].ground) >= AA_GRAPHICS
    for one, other in itertools.pairwise(theme.SERIES[mode][1:]):
        assert contrast(one, other) >= 1.5


def test_a_ticked_box_shows_its_tick():
    for ground in (theme.ACCENT["light"].ground, theme.CHECKED):
        assert contrast("#ffffff", ground) >= AA_GRAPHICS


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_category_colours_differ_for_colour_blind_readers(mode, sight):
    seen = {
        name: lab(np.clip(SIGHT[sight] @ linear(getattr(style, mode).text), 0, 1))
        for name, style in theme.CATEGORY_STYLES.items()
    }
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) >= TOLD_APART, (one, other)


def test_every_category_has_its_own_icon():
    assert tuple(theme.CATEGORY_STYLES) == tags.CATEGORIES
    assert len({style.icon for style in theme.CATEGORY_STYLES.values()}) == len(tags.CATEGORIES)


def test_the_stylesheet_names_no_colour_of_its_own():
    values = re.findall(r":([^;{}]*);", theme.STYLESHEET.read_text(encoding="utf-8"))
    assert not [value for value in values if re.search(r"#[0-9a-fA-F]{3,8}\b|rgba?[(]|hsl", value)]


def test_every_colour_that_the_stylesheet_uses_is_in_the_palette():
    used = set(re.findall(r"var\(--ev-([\w-]+)", theme.STYLESHEET.read_text(encoding="utf-8")))
    given = set(re.findall(r"--ev-([\w-]+):", theme.css_variables("light") + theme.css()))
    set_on_elements = {"sure", "value", "from", "to", "across", "up", "extent", "colour"}
    assert used <= given | set_on_elements


def test_the_theme_fetches_nothing_from_other_sites():
    assert "http" not in theme.css().replace("http://www.w3.org/2000/svg", "").replace("http%3A//www.w3.org", "")
    assert not theme.theme()._stylesheets

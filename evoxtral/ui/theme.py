"""The palette and Gradio's theme. A test checks that the palette meets WCAG AA in light and dark mode.

Each category of tags has a colour, an icon and a border style, so that colour never carries meaning alone. The hues
follow Okabe and Ito's set for colour-blind readers (https://jfly.uni-koeln.de/color/).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import gradio as gr

STYLESHEET = Path(__file__).with_name("style.css")


@dataclass(frozen=True)
class ColourPair:
    """A text colour and its background, sRGB hex."""

    text: str
    ground: str


@dataclass(frozen=True)
class CategoryStyle:
    """light, dark: colours of the mode.  icon: an SVG path in a 16 × 16 box.  line: CSS border style of its chips."""

    light: ColourPair
    dark: ColourPair
    icon: str
    line: str


CATEGORY_STYLES: Mapping[str, CategoryStyle] = {
    "emotion": CategoryStyle(
        ColourPair("#8c1560", "#fce6f2"),
        ColourPair("#f7aed8", "#46203a"),
        icon="M8 14 2.6 9C.4 6.7 1.6 2.6 5 2.3c1.3 0 2.3.6 3 1.7C8.7 3 9.8 2.3 11 2.3c3.3.3 4.5 4.4 2.3 6.6Z",
        line="solid",
    ),
    "non-verbal": CategoryStyle(
        ColourPair("#0a4c8a", "#e2effb"),
        ColourPair("#93cbff", "#15324d"),
        icon="M1 6h2v4H1zM4.5 3h2v10h-2zM8 5h2v6H8zM11.5 1.5h2v13h-2z",
        line="solid",
    ),
    "delivery": CategoryStyle(
        ColourPair("#8a3d00", "#fdecdb"),
        ColourPair("#ffa866", "#47290e"),
        icon="M2 2h12a1 1 0 0 1 1 1v7a1 1 0 0 1-1 1H8l-4 4v-4H2a1 1 0 0 1-1-1V3a1 1 0 0 1 1-1Z",
        line="dashed",
    ),
    "pause": CategoryStyle(
        ColourPair("#33323f", "#ebebf1"),
        ColourPair("#e6e5ee", "#33323f"),
        icon="M3.5 2h3v12h-3zM9.5 2h3v12h-3z",
        line="dotted",
    ),
    "other": CategoryStyle(
        ColourPair("#005c47", "#ddf3ec"),
        ColourPair("#6fe3bd", "#123b31"),
        icon="M8 .5 15.5 8 8 15.5 .5 8Z",
        line="double",
    ),
}

# Colours of text, cards and page, and the accent of buttons, bars and links.
SURFACE = {"light": ColourPair("#1d1b26", "#ffffff"), "dark": ColourPair("#eceaf3", "#1d1b26")}
BACKGROUND = {"light": ColourPair("#1d1b26", "#f6f5f2"), "dark": ColourPair("#eceaf3", "#131119")}
MUTED = {"light": ColourPair("#5a5768", "#f6f5f2"), "dark": ColourPair("#aaa6ba", "#1d1b26")}
ACCENT = {"light": ColourPair("#ffffff", "#4a3f9f"), "dark": ColourPair("#17131f", "#b7aefc")}
HOVER = {"light": "#392f85", "dark": "#cdc7ff"}  # accent on hover
ERROR = {"light": ColourPair("#9b1c1c", "#fdeaea"), "dark": ColourPair("#ffb4ab", "#45191a")}
DIFFERENCE = {"light": ColourPair("#1d1b26", "#fff3b0"), "dark": ColourPair("#fff4c4", "#4d4310")}
LINE = {"light": "#dcd9e3", "dark": "#38354a"}
# One colour per variant in charts; they differ in lightness too, and are always labelled.
SERIES = {"light": ("#8f8ba3", "#7d6fd8", "#2f2770"), "dark": ("#7d7992", "#a79df5", "#e6e2ff")}

CHECKED = "#7466d8"  # ticked checkboxes in dark mode
# Colours of the recorder's waveform, not played and played; Gradio takes one pair for both modes.
WAVEFORM = ("#8f8ba3", "#7d6fd8")


def css_variables(mode: str) -> str:
    """CSS custom properties of the palette; mode is "light" or "dark"."""
    pairs = {
        "text": SURFACE[mode].text,
        "surface": SURFACE[mode].ground,
        "background": BACKGROUND[mode].ground,
        "muted": MUTED[mode].text,
        "accent": ACCENT[mode].ground,
        "on-accent": ACCENT[mode].text,
        "error": ERROR[mode].text,
        "error-ground": ERROR[mode].ground,
        "difference": DIFFERENCE[mode].text,
        "difference-ground": DIFFERENCE[mode].ground,
        "line": LINE[mode],
    }
    for name, style in CATEGORY_STYLES.items():
        pair = {"light": style.light, "dark": style.dark}[mode]
        pairs |= {name: pair.text, f"{name}-ground": pair.ground}
    pairs |= {f"series-{i}": colour for i, colour in enumerate(SERIES[mode])}
    return "".join(f"--ev-{name}:{value};" for name, value in pairs.items())


def _icon_url(path: str) -> str:
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><path d='{path}'/></svg>"
    return f'url("data:image/svg+xml,{quote(svg)}")'


def css() -> str:
    """The palette as CSS, each category's icon and line, then the stylesheet."""
    styles = "".join(
        f".ev-{name},.ev-legend .wrap label:nth-of-type({number})"
        f"{{--ev-text-colour:var(--ev-{name});--ev-ground:var(--ev-{name}-ground);"
        f"--ev-icon:{_icon_url(style.icon)};--ev-chip-line:{style.line}}}\n"
        for number, (name, style) in enumerate(CATEGORY_STYLES.items(), start=1)
    )
    palette = f":root{{{css_variables('light')}}}\n:root.dark,:root .dark{{{css_variables('dark')}}}\n"
    return palette + styles + STYLESHEET.read_text(encoding="utf-8")


def theme() -> gr.themes.Base:
    """Gradio's theme in this palette, with fonts that Gradio ships: none is fetched."""
    base = gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.zinc,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_sm,
        text_size=gr.themes.sizes.text_md,
        font=(gr.themes.utils.fonts.LocalFont("IBM Plex Sans", (400, 700)), "system-ui", "sans-serif"),
        font_mono=(gr.themes.utils.fonts.LocalFont("IBM Plex Mono", (400, 600)), "ui-monospace", "monospace"),
    )
    grounds = {
        "body_background_fill": BACKGROUND,
        "background_fill_primary": SURFACE,
        "background_fill_secondary": BACKGROUND,
        "block_background_fill": SURFACE,
        "border_color_accent": ACCENT,
        "slider_color": ACCENT,
        "link_text_color": ACCENT,
        "button_primary_background_fill": ACCENT,
        "button_secondary_background_fill": SURFACE,
        "button_secondary_background_fill_hover": BACKGROUND,
        "error_background_fill": ERROR,
    }
    texts = {
        "body_text_color": SURFACE,
        "body_text_color_subdued": MUTED,
        "block_label_text_color": MUTED,
        "block_title_text_color": MUTED,
        "block_info_text_color": MUTED,
        "input_placeholder_color": MUTED,
        "button_primary_text_color": ACCENT,
        "button_primary_text_color_hover": ACCENT,
        "button_secondary_text_color": SURFACE,
        "error_text_color": ERROR,
    }
    lines = ("block_border_color", "border_color_primary", "button_secondary_border_color")
    ticked = {"light": ACCENT["light"].ground, "dark": CHECKED}  # the tick is white in both modes
    settings = {}
    for mode, suffix in (("light", ""), ("dark", "_dark")):
        settings |= {f"{name}{suffix}": pairs[mode].ground for name, pairs in grounds.items()}
        settings |= {f"{name}{suffix}": pairs[mode].text for name, pairs in texts.items()}
        settings |= {f"{name}{suffix}": LINE[mode] for name in lines}
        settings[f"input_background_fill{suffix}"] = {"light": SURFACE, "dark": BACKGROUND}[mode][mode].ground
        settings[f"button_primary_background_fill_hover{suffix}"] = HOVER[mode]
        settings[f"checkbox_background_color_selected{suffix}"] = ticked[mode]
        settings[f"checkbox_border_color_selected{suffix}"] = ticked[mode]
    return base.set(**settings, block_shadow="none", block_shadow_dark="none", block_label_text_size="*text_xs")

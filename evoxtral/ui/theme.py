"""How the page looks: one palette, held to WCAG AA in light and dark by its test, and Gradio's parts in it.

Every kind of tag has a colour, an icon and a line of its own, so that colour never carries meaning alone. The
hues are spaced after Okabe and Ito's set for colour-blind readers (https://jfly.uni-koeln.de/color/).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import gradio as gr

STYLESHEET = Path(__file__).with_name("style.css")


@dataclass(frozen=True)
class Ink:
    """A text colour and the ground it stands on, sRGB hex."""

    text: str
    ground: str


@dataclass(frozen=True)
class CategoryLook:
    """light, dark: its inks.  icon: an SVG path in a 16 × 16 box.  line: CSS border style of its chip."""

    light: Ink
    dark: Ink
    icon: str
    line: str


CATEGORY_LOOKS: Mapping[str, CategoryLook] = {
    "emotion": CategoryLook(
        Ink("#8c1560", "#fce6f2"),
        Ink("#f7aed8", "#46203a"),
        icon="M8 14 2.6 9C.4 6.7 1.6 2.6 5 2.3c1.3 0 2.3.6 3 1.7C8.7 3 9.8 2.3 11 2.3c3.3.3 4.5 4.4 2.3 6.6Z",
        line="solid",
    ),
    "non-verbal": CategoryLook(
        Ink("#0a4c8a", "#e2effb"),
        Ink("#93cbff", "#15324d"),
        icon="M1 6h2v4H1zM4.5 3h2v10h-2zM8 5h2v6H8zM11.5 1.5h2v13h-2z",
        line="solid",
    ),
    "delivery": CategoryLook(
        Ink("#8a3d00", "#fdecdb"),
        Ink("#ffa866", "#47290e"),
        icon="M2 2h12a1 1 0 0 1 1 1v7a1 1 0 0 1-1 1H8l-4 4v-4H2a1 1 0 0 1-1-1V3a1 1 0 0 1 1-1Z",
        line="dashed",
    ),
    "pause": CategoryLook(
        Ink("#33323f", "#ebebf1"),
        Ink("#e6e5ee", "#33323f"),
        icon="M3.5 2h3v12h-3zM9.5 2h3v12h-3z",
        line="dotted",
    ),
    "other": CategoryLook(
        Ink("#005c47", "#ddf3ec"),
        Ink("#6fe3bd", "#123b31"),
        icon="M8 .5 15.5 8 8 15.5 .5 8Z",
        line="double",
    ),
}

# What the page's own text stands on, and the accent of buttons, bars and links.
PAPER = {"light": Ink("#1d1b26", "#ffffff"), "dark": Ink("#eceaf3", "#1d1b26")}
PAGE = {"light": Ink("#1d1b26", "#f6f5f2"), "dark": Ink("#eceaf3", "#131119")}
MUTED = {"light": Ink("#5a5768", "#f6f5f2"), "dark": Ink("#aaa6ba", "#1d1b26")}
ACCENT = {"light": Ink("#ffffff", "#4a3f9f"), "dark": Ink("#17131f", "#b7aefc")}
HOVER = {"light": "#392f85", "dark": "#cdc7ff"}  # the accent under the pointer
ALARM = {"light": Ink("#9b1c1c", "#fdeaea"), "dark": Ink("#ffb4ab", "#45191a")}
DIFFERENCE = {"light": Ink("#1d1b26", "#fff3b0"), "dark": Ink("#fff4c4", "#4d4310")}
LINE = {"light": "#dcd9e3", "dark": "#38354a"}
# One colour per variant in charts; told apart by lightness too, and always labelled.
SERIES = {"light": ("#8f8ba3", "#7d6fd8", "#2f2770"), "dark": ("#7d7992", "#a79df5", "#e6e2ff")}

CHECKED = "#7466d8"  # a ticked box in the dark
# The recorder's waveform cannot follow the mode: what is to come, and what has been played.
WAVEFORM = ("#8f8ba3", "#7d6fd8")


def variables(mode: str) -> str:
    """CSS custom properties of the palette; mode is "light" or "dark"."""
    pairs = {
        "text": PAPER[mode].text,
        "paper": PAPER[mode].ground,
        "page": PAGE[mode].ground,
        "muted": MUTED[mode].text,
        "accent": ACCENT[mode].ground,
        "on-accent": ACCENT[mode].text,
        "alarm": ALARM[mode].text,
        "alarm-ground": ALARM[mode].ground,
        "difference": DIFFERENCE[mode].text,
        "difference-ground": DIFFERENCE[mode].ground,
        "line": LINE[mode],
    }
    for name, look in CATEGORY_LOOKS.items():
        ink = {"light": look.light, "dark": look.dark}[mode]
        pairs |= {name: ink.text, f"{name}-ground": ink.ground}
    pairs |= {f"series-{i}": colour for i, colour in enumerate(SERIES[mode])}
    return "".join(f"--ev-{name}:{value};" for name, value in pairs.items())


def _icon_url(path: str) -> str:
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><path d='{path}'/></svg>"
    return f'url("data:image/svg+xml,{quote(svg)}")'


def css() -> str:
    """The palette as CSS, each category's icon and line, then the stylesheet."""
    looks = "".join(
        f".ev-{name},.ev-legend .wrap label:nth-of-type({number})"
        f"{{--ev-ink:var(--ev-{name});--ev-ground:var(--ev-{name}-ground);"
        f"--ev-icon:{_icon_url(look.icon)};--ev-chip-line:{look.line}}}\n"
        for number, (name, look) in enumerate(CATEGORY_LOOKS.items(), start=1)
    )
    palette = f":root{{{variables('light')}}}\n:root.dark,:root .dark{{{variables('dark')}}}\n"
    return palette + looks + STYLESHEET.read_text(encoding="utf-8")


def theme() -> gr.themes.Base:
    """Gradio's own parts in the palette: system-independent fonts that Gradio ships, no font is fetched."""
    accent = {"light": ACCENT["light"], "dark": ACCENT["dark"]}
    base = gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.zinc,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_sm,
        text_size=gr.themes.sizes.text_md,
        font=(gr.themes.utils.fonts.LocalFont("IBM Plex Sans", (400, 700)), "system-ui", "sans-serif"),
        font_mono=(gr.themes.utils.fonts.LocalFont("IBM Plex Mono", (400, 600)), "ui-monospace", "monospace"),
    )
    both = {
        "body_background_fill": (PAGE["light"].ground, PAGE["dark"].ground),
        "body_text_color": (PAPER["light"].text, PAPER["dark"].text),
        "body_text_color_subdued": (MUTED["light"].text, MUTED["dark"].text),
        "background_fill_primary": (PAPER["light"].ground, PAPER["dark"].ground),
        "background_fill_secondary": (PAGE["light"].ground, PAGE["dark"].ground),
        "block_background_fill": (PAPER["light"].ground, PAPER["dark"].ground),
        "block_border_color": (LINE["light"], LINE["dark"]),
        "block_label_text_color": (MUTED["light"].text, MUTED["dark"].text),
        "block_title_text_color": (MUTED["light"].text, MUTED["dark"].text),
        "block_info_text_color": (MUTED["light"].text, MUTED["dark"].text),
        "border_color_primary": (LINE["light"], LINE["dark"]),
        "border_color_accent": (accent["light"].ground, accent["dark"].ground),
        "slider_color": (accent["light"].ground, accent["dark"].ground),
        "input_background_fill": (PAPER["light"].ground, PAGE["dark"].ground),
        "input_placeholder_color": (MUTED["light"].text, MUTED["dark"].text),
        "link_text_color": (accent["light"].ground, accent["dark"].ground),
        "button_primary_background_fill": (accent["light"].ground, accent["dark"].ground),
        "button_primary_background_fill_hover": (HOVER["light"], HOVER["dark"]),
        "button_primary_text_color": (accent["light"].text, accent["dark"].text),
        "button_primary_text_color_hover": (accent["light"].text, accent["dark"].text),
        "button_secondary_background_fill": (PAPER["light"].ground, PAPER["dark"].ground),
        "button_secondary_background_fill_hover": (PAGE["light"].ground, PAGE["dark"].ground),
        "button_secondary_text_color": (PAPER["light"].text, PAPER["dark"].text),
        "button_secondary_border_color": (LINE["light"], LINE["dark"]),
        # White ticks on it, in both modes.
        "checkbox_background_color_selected": (ACCENT["light"].ground, CHECKED),
        "checkbox_border_color_selected": (ACCENT["light"].ground, CHECKED),
        "error_background_fill": (ALARM["light"].ground, ALARM["dark"].ground),
        "error_text_color": (ALARM["light"].text, ALARM["dark"].text),
    }
    settings = {name: light for name, (light, _) in both.items()}
    settings |= {f"{name}_dark": dark for name, (_, dark) in both.items()}
    return base.set(**settings, block_shadow="none", block_shadow_dark="none", block_label_text_size="*text_xs")

"""Parts of a report's page: sections, notes, and their arrangement."""

from collections.abc import Iterable

from markupsafe import Markup

from evoxtral.ui import view


def section(title: str, *parts: str) -> Markup:
    """A section of the page with its heading; its id is made from the heading."""
    return Markup('<section class="ev-card" id="{}"><h2>{}</h2>{}</section>').format(
        address(title), title, Markup("").join(parts)
    )


def address(title: str) -> str:
    return f"ev-{view.safe(title).lower()}"


def note(sentence: str) -> Markup:
    return Markup('<p class="ev-origin">{}</p>').format(sentence)


def side_by_side(cards: Iterable[Markup]) -> Markup:
    return Markup('<div class="ev-report">{}</div>').format(Markup("").join(cards))


def stacked(*cards: Markup) -> Markup:
    return Markup('<div class="ev-stack">{}</div>').format(Markup("").join(cards))

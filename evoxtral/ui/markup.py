"""Tagged text as HTML: tags as chips, stressed words, marks of differences, words that can be heard.

Text of models and people goes through `Markup.format`, which escapes it; raw strings are never joined into HTML.
"""

from collections.abc import Iterable, Mapping

from markupsafe import Markup, escape

from evoxtral import tags
from evoxtral.ui.diff import WORD, Item, Marks
from evoxtral.ui.wording import percent
from evoxtral.words import Word

NO_MARKS = Marks()
NO_WORDS: Mapping[int, Word] = {}
UNSURE = 0.5  # probability below which a word is underlined, where a visitor asks for it


def _when(word: Word | None) -> Markup:
    """What tells `page.js` when a word or tag sounds, as attributes; nothing where that is not known."""
    if word is None or word.start is None:
        return Markup("")
    return Markup(' data-from="{:.2f}" data-to="{:.2f}"').format(word.start, word.end)


def chip(
    raw: str, name: str, probability: float | None = None, differs: bool = False, word: Word | None = None
) -> Markup:
    """A tag as a chip in the style of its category; its brackets are in the text, so that copying keeps them.

    The text of its tooltip is also its label for screen readers. Where its time is known it is a button: it is heard.
    """
    kind = tags.category(name)
    like = [] if tags.group(name) == name else [f"like {tags.group(name)}"]
    says = [name or "empty", *like, kind] + ([] if probability is None else [f"{percent(probability)} sure"])
    when = _when(word)
    if when:
        says.append(f"{word.start:.1f}–{word.end:.1f} s")
    return Markup(
        '<span class="ev-tag ev-{kind}{mark}" tabindex="0" role="{role}" aria-label="{label}" data-tip="{tip}"{when}'
        ' style="--ev-sure:{width:.3f}">'
        '<span class="ev-bracket">[</span>{inner}<span class="ev-bracket">]</span></span>'
    ).format(
        kind=kind,
        mark=" ev-differs" if differs else "",
        role="button" if when else "img",
        when=when,
        width=1.0 if probability is None else probability,
        label=", ".join(says),
        tip=" · ".join(says),
        inner=raw[1:-1],
    )


def _word(raw: str, differs: bool, word: Word | None = None) -> Markup:
    """A word with its punctuation; runs of capitals are emphasised. Where its time is known, it can be heard."""
    parts: list[Markup] = []
    end = 0
    for stressed in tags.EMPHASIS.finditer(raw):
        parts.append(escape(raw[end : stressed.start()]))
        parts.append(Markup('<em class="ev-emphasis">{}</em>').format(stressed.group()))
        end = stressed.end()
    parts.append(escape(raw[end:]))
    html = Markup("").join(parts)
    if differs:
        html = Markup('<mark class="ev-differs">{}</mark>').format(html)
    when = _when(word)
    if not when:
        return html
    unsure = word.probability is not None and word.probability < UNSURE
    return Markup('<span class="ev-word{}"{}>{}</span>').format(" ev-unsure" if unsure else "", when, html)


def missing(lost: Iterable[Item]) -> Markup:
    return Markup("").join(Markup('<del class="ev-missing">{}</del> ').format(item.text) for item in lost)


def tagged_text(
    text: str,
    sure: Mapping[int, float | None],
    marks: Marks = NO_MARKS,
    start: int = 0,
    words: Mapping[int, Word] = NO_WORDS,
) -> Markup:
    """Tagged text, or the part of a text that starts at offset `start`.

    sure: probability of each tag, by its offset.  words: those that can be heard, by offset. All offsets count from the
    start of the whole text.
    """
    parts: list[Markup] = []
    position = start
    for piece in tags.parse(text):
        if isinstance(piece, tags.Tag):
            parts.append(missing(marks.missing.get(position, ())))
            differs = position in marks.differs
            parts.append(chip(piece.raw, piece.name, sure.get(position), differs, words.get(position)))
        else:
            end = 0
            for word in WORD.finditer(piece.raw):
                place = position + word.start()
                parts.append(escape(piece.raw[end : word.start()]))
                parts.append(missing(marks.missing.get(place, ())))
                parts.append(_word(word.group(), place in marks.differs, words.get(place)))
                end = word.end()
            parts.append(escape(piece.raw[end:]))
        position += len(piece.raw)
    return Markup("").join(parts)

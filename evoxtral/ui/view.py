"""Transcripts as HTML: pure functions, no Gradio.

Everything that a model or a person wrote goes through `Markup.format`, which escapes it; nothing here joins
raw strings into HTML.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from markupsafe import Markup, escape

from evoxtral import tags
from evoxtral.transcript import Cue, TagSpan, Transcript
from evoxtral.ui.diff import WORD, Change, Item, Marks, against, agreed_share, between, tag_change

NO_MARKS = Marks()


@dataclass(frozen=True)
class Filter:
    """Which tags are shown: those of `categories` that are at least `min_probability` likely."""

    categories: frozenset[str] = frozenset(tags.CATEGORIES)
    min_probability: float = 0.0

    def text(self, transcript: Transcript) -> str:
        hidden = frozenset(tags.CATEGORIES) - self.categories
        return transcript.without(self.min_probability, hidden)

    def shows(self, span: TagSpan) -> bool:
        unlikely = span.probability is not None and span.probability < self.min_probability
        return span.category in self.categories and not unlikely


EVERYTHING = Filter()


@dataclass(frozen=True)
class Heading:
    """A variant's name on the page, and one line that says what it is."""

    title: str
    line: str


HEADINGS: Mapping[str, Heading] = {
    "base": Heading("Base", "Before training: the words alone"),
    "sft": Heading("SFT", "Fine-tuned on tagged speech"),
    "rl": Heading("RL", "SFT, refined by its best attempts (RAFT)"),
}


def heading(variant: str) -> Heading:
    return HEADINGS.get(variant, Heading(variant, "Your own adapter"))


def percent(share: float) -> str:
    """0.9345 → "93 %" with a no-break space; never rounded up to a 100 % that it is not."""
    return f"{int(share * 100) if share > 0.99 else round(share * 100)}\u00a0%"


def counted(number: int, thing: str) -> str:
    """2, "tag" → "2 tags"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _clock(seconds: float) -> str:
    """75.2 → "1:15"."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


# ------------------------------------------------------------------------------------------------ text


def chip(raw: str, name: str, probability: float | None = None, differs: bool = False) -> Markup:
    """One tag, looking like its category; its brackets stay in the page's text, so copying keeps them."""
    kind = tags.category(name)
    sure = "" if probability is None else f" · {percent(probability)} sure"
    return Markup(
        '<span class="ev-tag ev-{kind}{mark}" tabindex="0" style="--ev-sure:{width:.3f}" data-tip="{tip}">'
        '<span class="ev-bracket">[</span>{inner}<span class="ev-bracket">]</span></span>'
    ).format(
        kind=kind,
        mark=" ev-differs" if differs else "",
        width=1.0 if probability is None else probability,
        tip=f"{name or 'empty'} · {kind}{sure}",
        inner=raw[1:-1],
    )


def _word(raw: str, differs: bool) -> Markup:
    """One word with what is around it; its runs of capitals are emphasis."""
    parts: list[Markup] = []
    end = 0
    for stressed in tags.EMPHASIS.finditer(raw):
        parts.append(escape(raw[end : stressed.start()]))
        parts.append(Markup('<em class="ev-emphasis">{}</em>').format(stressed.group()))
        end = stressed.end()
    parts.append(escape(raw[end:]))
    html = Markup("").join(parts)
    return Markup('<mark class="ev-differs">{}</mark>').format(html) if differs else html


def _missing(lost: Iterable[Item]) -> Markup:
    return Markup("").join(Markup('<del class="ev-missing">{}</del> ').format(item.text) for item in lost)


def body(text: str, probabilities: Iterable[float | None], marks: Marks = NO_MARKS) -> Markup:
    """Tagged text; `probabilities` are those of its tags in order."""
    parts: list[Markup] = []
    sure = iter(probabilities)
    position = 0
    for piece in tags.parse(text):
        if isinstance(piece, tags.Tag):
            parts.append(_missing(marks.missing.get(position, ())))
            parts.append(chip(piece.raw, piece.name, next(sure), position in marks.differs))
        else:
            end = 0
            for word in WORD.finditer(piece.raw):
                start = position + word.start()
                parts.append(escape(piece.raw[end : word.start()]))
                parts.append(_missing(marks.missing.get(start, ())))
                parts.append(_word(word.group(), start in marks.differs))
                end = word.end()
            parts.append(escape(piece.raw[end:]))
        position += len(piece.raw)
    parts.append(Markup(" ") + _missing(marks.missing.get(len(text), ())))
    return Markup("").join(parts)


# ------------------------------------------------------------------------------------------------ a column


def _stats(transcript: Transcript, shown_tags: int) -> Markup:
    seconds = transcript.seconds
    figures = [("time", f"{seconds:.1f} s")]
    if seconds > 0:
        figures.append(("speed", f"{transcript.duration / seconds:.1f}× real time"))
        figures.append(("rate", f"{transcript.token_count / seconds:.0f} tokens/s"))
    figures.append(("tags", counted(shown_tags, "tag")))
    cells = (Markup('<span data-stat="{}">{}</span>').format(name, value) for name, value in figures)
    return Markup('<p class="ev-stats">{}</p>').format(Markup("").join(cells))


def _as_shown(transcript: Transcript, shown: Filter) -> Transcript:
    """The transcript with hidden tags gone from every cue: what the text exports hold."""
    cues = (
        Cue.from_text(shown.text(Transcript((cue,), transcript.duration, transcript.seconds)), cue.start, cue.end)
        for cue in transcript.cues
    )
    return Transcript(tuple(cues), transcript.duration, transcript.seconds)


def _exports(transcript: Transcript, shown: Filter, stem: str) -> Markup:
    """Copy, and downloads that carry their data in the link: nothing is stored on the server.

    TXT, SRT and VTT hold what is shown; JSON holds every tag with its probability.
    """
    visible = _as_shown(transcript, shown)
    files = (
        ("TXT", "text/plain", visible.to_txt(), "The text as shown, tags in brackets"),
        ("JSON", "application/json", transcript.to_json(), "Everything: every tag with its probability"),
        ("SRT", "application/x-subrip", visible.to_srt(), "Subtitles of what is shown"),
        ("VTT", "text/vtt", visible.to_vtt(), "Captions of what is shown"),
    )
    links = Markup("").join(
        Markup('<a download="{}.{}" href="data:{};charset=utf-8,{}" title="{}">{}</a>').format(
            stem, name.lower(), mime, quote(content), hint, name
        )
        for name, mime, content, hint in files
    )
    copy = Markup('<button type="button" class="ev-copy" data-copy="{}" title="{}">Copy</button>').format(
        visible.to_txt(), "Copy the tagged text, ready for an ElevenLabs v3 prompt"
    )
    again = Markup('<button type="button" data-say="{}" title="{}">Speak it</button>').format(
        visible.to_txt(), "Take this text to the Speak tab and hear it"
    )
    return Markup('<p class="ev-exports">{}{}{}</p>').format(copy, links, again)


def _score_table(scores: Mapping[str, str]) -> Markup:
    cells = Markup("").join(
        Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, value) for name, value in scores.items()
    )
    return Markup('<dl class="ev-scores" aria-label="Scores against the reference">{}</dl>').format(cells)


def _cues(transcript: Transcript, text: str, shown: Filter, marks: Marks) -> Markup:
    probabilities = [span.probability for span in transcript.tags if shown.shows(span)]
    if transcript.done and not text and not marks.missing:
        silent = not transcript.text
        note = "No speech was found in this clip." if silent else "Only hidden tags: nothing left to show."
        return Markup('<p class="ev-note">{}</p>').format(note)
    caret = Markup('<span class="ev-caret" aria-hidden="true"></span>') if not transcript.done else Markup("")
    cut = Markup("")
    if transcript.done and transcript.cut:
        cut = Markup('<p class="ev-note ev-cut">{}</p>').format(
            "Cut short: the text reached its length limit before the audio ended."
        )
    return Markup("<p>{}{}</p>{}").format(body(text, probabilities, marks), caret, cut)


def column(
    variant: str,
    transcript: Transcript | None = None,
    shown: Filter = EVERYTHING,
    marks: Marks = NO_MARKS,
    scores: Mapping[str, str] | None = None,
    stem: str = "transcript",
) -> Markup:
    """One variant's card. transcript None: still empty. scores: name → figure, against a reference.
    stem: what downloads are called before `.rl.srt`."""
    head = heading(variant)
    text = Markup('<p class="ev-note">{}</p>').format("Pick an example, or bring your own clip.")
    foot = Markup('<p class="ev-stats">\u00a0</p>')
    if transcript is not None:
        shown_text = shown.text(transcript)
        text = _cues(transcript, shown_text, shown, marks)
        foot = _stats(transcript, sum(shown.shows(span) for span in transcript.tags))
        if transcript.done:
            foot += _exports(transcript, shown, f"{stem}.{variant}")
    table = _score_table(scores) if scores else Markup("")
    return Markup(
        '<article class="ev-column" data-variant="{variant}" aria-busy="{busy}" aria-label="{title}">'
        "<header><h2>{title}</h2><p>{line}</p></header>"
        '<div class="ev-text" tabindex="0" role="region" aria-label="{title} text">{text}</div>{table}'
        '<footer class="ev-foot">{foot}</footer></article>'
    ).format(
        variant=variant,
        busy="false" if transcript is None or transcript.done else "true",
        title=head.title,
        line=head.line,
        text=text,
        table=table,
        foot=foot,
    )


def columns(
    transcripts: Mapping[str, Transcript],
    shown: Filter = EVERYTHING,
    reference: str = "",
    scores: Mapping[str, Mapping[str, str]] | None = None,
    stem: str = "transcript",
) -> Markup:
    """All cards of one clip, side by side.

    Differences are marked once every text is complete: against the reference if there is one, else between
    the variants.  scores: variant → name → figure.  stem: what downloads are called.
    """
    texts = {variant: shown.text(transcript) for variant, transcript in transcripts.items()}
    marks: Mapping[str, Marks] = {}
    if all(transcript.done for transcript in transcripts.values()):
        if reference:
            marks = {variant: against(reference, text) for variant, text in texts.items()}
        elif len(texts) > 1:
            marks = between(texts)
    return _side_by_side(
        column(variant, transcript, shown, marks.get(variant, NO_MARKS), (scores or {}).get(variant), stem)
        for variant, transcript in transcripts.items()
    )


def empty_columns() -> Markup:
    """What stands there before the first clip; which variants the model has is not known then."""
    return _side_by_side(column(variant) for variant in HEADINGS)


def _side_by_side(cards: Iterable[Markup]) -> Markup:
    return Markup('<div class="ev-columns">{}</div>').format(Markup("").join(cards))


# ------------------------------------------------------------------------------------------------ one line


def _change(change: Change) -> str:
    before, after = heading(change.before).title, heading(change.after).title
    if not change.added and not change.dropped:
        return f"{after} has the same tags as {before}"
    counts = {"adds": len(change.added), "drops": len(change.dropped)}
    done = [f"{verb} {counted(count, 'tag')}" for verb, count in counts.items() if count]
    return f"{after} {' and '.join(done)} against {before}"


def agreement(transcripts: Mapping[str, Transcript], shown: Filter = EVERYTHING) -> str:
    """ "All three agree on 93 % of words; RL adds 2 tags against SFT"."""
    texts = {variant: shown.text(transcript) for variant, transcript in transcripts.items()}
    if not any(texts.values()):
        return "No speech was found in this clip."
    if len(texts) < 2:
        return ""
    everyone = {2: "Both", 3: "All three"}.get(len(texts), f"All {len(texts)}")
    sentence = f"{everyone} agree on {percent(agreed_share(texts))} of words"
    tagged = [variant for variant, text in texts.items() if tags.names(text)]
    if len(tagged) > 1:
        sentence += f"; {_change(tag_change(tagged[-2], tagged[-1], texts))}"
    return sentence + "."


def status(sentence: str) -> Markup:
    """A plain word on how things stand."""
    return Markup('<p class="ev-status" role="status">{}</p>').format(sentence)


def verdict(sentence: str, scored: bool) -> Markup:
    """The sentence on a finished clip, with the key to its marks. scored: against a reference."""
    key = [("em", "ev-emphasis", "STRESSED"), ("mark", "ev-differs", "not said" if scored else "not in all")]
    key += [("del", "ev-missing", "missed")] if scored else []
    signs = Markup("").join(Markup('<{} class="{}">{}</{}>').format(tag, name, word, tag) for tag, name, word in key)
    return Markup('<p class="ev-status" role="status">{} <span class="ev-signs">{}</span></p>').format(sentence, signs)


def alarm(sentence: str) -> Markup:
    """What went wrong and what to do, for a person to read in place."""
    return Markup('<p class="ev-status ev-alarm" role="alert">{}</p>').format(sentence)


def clip_length(seconds: float) -> str:
    """How long a clip is, before it is transcribed."""
    return f"{seconds:.1f} s of audio." if seconds < 60 else f"{_clock(seconds)} min of audio."


_UNSAFE_IN_NAMES = re.compile(r"[^\w.-]+")


def file_stem(path: str) -> str:
    """A name for downloads, from that of the clip."""
    name = path.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return _UNSAFE_IN_NAMES.sub("-", name).strip("-.")[:60] or "transcript"

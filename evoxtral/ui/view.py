"""Transcripts as HTML: pure functions, no Gradio.

Text of models and people goes through `Markup.format`, which escapes it; raw strings are never joined into HTML.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from markupsafe import Markup

from evoxtral import foreign_formats, metrics, tags
from evoxtral.transcript import Cue, Token, Transcript
from evoxtral.ui.diff import Marks, mark_against_reference, mark_differences
from evoxtral.ui.markup import NO_MARKS, missing, tagged_text
from evoxtral.ui.wording import clock, counted, incomplete

MAX_CHARACTERS = 40_000  # limit on a pasted or edited text: half an hour of fast speech has fewer


@dataclass(frozen=True)
class Filter:
    """Which tags are shown: those of `categories` that are at least `min_probability` likely.

    words_alone: no tags and no stress. With min_probability 0, a doubtful transcript shows those of at least its own
    `hide_below`.
    """

    categories: frozenset[str] = frozenset(tags.CATEGORIES)
    min_probability: float = 0.0
    words_alone: bool = False

    def apply(self, transcript: Transcript) -> Transcript:
        if self.words_alone:
            return transcript.words_alone()
        least = self.min_probability or transcript.hide_below
        return transcript.without(least, frozenset(tags.CATEGORIES) - self.categories)

    def apply_to_text(self, text: str) -> str:
        """A person's text with the same categories hidden, to be compared with what is shown."""
        return self.apply(Transcript((Cue(0.0, 0.0, (Token(text, None),)),), 0.0, 0.0)).text

    def likely(self, transcript: Transcript) -> Transcript:
        """With all tags that are likely enough, of hidden categories too."""
        return transcript.without(self.min_probability or transcript.hide_below)


EVERYTHING = Filter()


@dataclass(frozen=True)
class Heading:
    """A column's title, a line on its variant, and a placeholder until it has text."""

    title: str
    description: str
    placeholder: str = "What was said, and how: [tags] for sounds, feelings and pauses, CAPITALS for what was stressed."


HEADINGS: Mapping[str, Heading] = {
    "base": Heading("Base", "Before training: the words alone", "What was said."),
    "sft": Heading("SFT", "Fine-tuned on tagged speech"),
    "rl": Heading("RL", "SFT, refined by its best attempts (RAFT)"),
}


def heading(variant: str) -> Heading:
    return HEADINGS.get(variant, Heading(variant, "Your own adapter"))


@dataclass(frozen=True)
class Column:
    """One transcript among those side by side.

    key: unique among the columns.  transcript: as shown and exported, None before the first clip.  written: as the
    model wrote it, before edits.  stem: file name of its downloads, without suffix.  result: id of its result, for
    `page.js`.  clip: identifies the clip, as only columns of one clip are compared.  reference: tagged reference, if
    known.
    """

    key: str
    heading: Heading
    transcript: Transcript | None = None
    written: Transcript | None = None
    stem: str = "transcript"
    result: str = ""
    clip: str = ""
    reference: str = ""


# ------------------------------------------------------------------------------------------------ text


def _time_range(cue: Cue) -> str:
    """The times of a cue: "0:28–0:55"."""
    return f"{clock(cue.start)}–{clock(cue.end)}"


def _about_cue(cue: Cue) -> str:
    """The times of a cue, and its channel where several are shown: "0:28–0:55 · Left:"."""
    return f"{_time_range(cue)} · {cue.lead.strip()}" if cue.channel else _time_range(cue)


def _cues(visible: Transcript, marks: Marks) -> Markup:
    """The text, a paragraph for each cue; where there are several, with their times."""
    timed = len(visible.cues) > 1 or any(cue.channel for cue in visible.cues)
    words = {word.offset: word for word in visible.words}
    sure = {word.offset: word.probability for word in words.values() if word.kind == "tag"}
    paragraphs: list[Markup] = []
    start = 0
    for cue in visible.cues:
        if cue.text:
            time = Markup('<span class="ev-time">{}</span> ').format(_about_cue(cue)) if timed else Markup("")
            paragraphs.append(time + tagged_text(cue.text, sure, marks, start, words))
            start += len(cue.text) + 1  # one space joins two cues
    last = Markup(" ") + missing(marks.missing.get(len(visible.text), ()))
    if not visible.done:
        last += Markup('<span class="ev-caret" aria-hidden="true"></span>')
    *before, end = paragraphs or [Markup("")]
    return Markup("").join(Markup("<p>{}</p>").format(text) for text in (*before, end + last))


# ------------------------------------------------------------------------------------------------ a column


def _stats(written: Transcript, shown_tags: int) -> Markup:
    elapsed = written.elapsed
    figures = [("time", f"{elapsed:.1f} s")]
    if elapsed > 0:
        figures.append(("speed", f"{written.duration / elapsed:.1f}× real time"))
        figures.append(("rate", f"{written.token_count / elapsed:.0f} tokens/s"))
    figures.append(("tags", counted(shown_tags, "tag")))
    cells = (Markup('<span data-stat="{}">{}</span>').format(name, value) for name, value in figures)
    return Markup('<p class="ev-stats">{}</p>').format(Markup("").join(cells))


def download(name: str, mime: str, content: str | bytes, label: str, hint: str) -> Markup:
    """A download link that contains its file: nothing is stored on the server."""
    return Markup('<a download="{}" href="data:{},{}" title="{}">{}</a>').format(
        name, mime, quote(content), hint, label
    )


# Kind of file → its MIME type.
KINDS = {"txt": "text/plain", "json": "application/json", "srt": "application/x-subrip", "vtt": "text/vtt"}
HINTS = {
    "txt": "The text as shown, tags in brackets",
    "json": "Everything: every tag with its probability",
    "srt": "Subtitles of what is shown",
    "vtt": "Captions of what is shown",
}


# The name of another dialect than ElevenLabs' own → the dialect, and what it is.
COPIES = {
    "Mistral": ("mistral", "As Mistral's speech API has it: [emotion=happy]"),
    "SSML": ("ssml", "As SSML 1.1 has it: <prosody>, <break/>, <emphasis>"),
    "plain": ("plain", "The words alone"),
}


def exports(transcript: Transcript, tag_filter: Filter = EVERYTHING) -> dict[str, str]:
    """Kind of file → content: TXT, SRT and VTT hold what is shown; JSON holds every tag with its probability."""
    visible = tag_filter.apply(transcript)
    contents = visible.to_txt(), transcript.to_json(), visible.to_srt(), visible.to_vtt()
    return dict(zip(KINDS, contents, strict=True))


def _exports(transcript: Transcript, tag_filter: Filter, stem: str) -> Markup:
    """Buttons and links: copy, downloads, and "Speak it"."""
    files = exports(transcript, tag_filter)
    links = Markup("").join(
        download(f"{stem}.{kind}", f"{KINDS[kind]};charset=utf-8", content, kind.upper(), HINTS[kind])
        for kind, content in files.items()
    )
    if not files["txt"]:
        return Markup('<p class="ev-exports">{}</p>').format(links)
    copy = Markup('<button type="button" class="ev-copy" data-copy="{}" title="{}">Copy for v3</button>').format(
        files["txt"], "Copy the tagged text as shown: it is ready for an ElevenLabs v3 prompt"
    )
    for_others = Markup('<details class="ev-more"><summary title="{}">Copy for …</summary>{}</details>').format(
        "The tags as another text-to-speech system wants them", _copies(files["txt"])
    )
    again = Markup('<button type="button" data-speak="{}" title="{}">Speak it</button>').format(
        files["txt"], "Take this text to the Speak tab and hear it"
    )
    return Markup('<div class="ev-exports">{}{}{}{}</div>').format(copy, for_others, links, again)


def _copies(text: str) -> Markup:
    """A button for each other dialect; what that has no counterpart for is named before and after."""
    return Markup("").join(
        Markup('<button type="button" data-copy="{}" data-copied="{}" title="{}">{}</button>').format(
            written.text,
            f"Copied without {lost}" if lost else "Copied",
            f"{about}{f'; without {lost}' if lost else ''}",
            name,
        )
        for name, (dialect, about) in COPIES.items()
        for written in [foreign_formats.write(text, dialect)]
        for lost in [" ".join(written.lost) if dialect != "plain" else ""]
    )


def _score(metric: metrics.Metric, value: str) -> Markup:
    arrow, better = ("↑", "Higher") if metric.higher_is_better else ("↓", "Lower")
    return Markup(
        '<div tabindex="0" data-tip="{tip}" aria-description="{tip}"><dt>{label} {arrow}</dt><dd>{value}</dd></div>'
    ).format(tip=f"{metric.definition}. {better} is better.", label=metric.label, arrow=arrow, value=value)


def _score_table(scores: Mapping[str, str]) -> Markup:
    cells = Markup("").join(_score(metric, scores[metric.name]) for metric in metrics.METRICS)
    return Markup('<dl class="ev-scores" aria-label="Scores against the reference">{}</dl>').format(cells)


def _text(transcript: Transcript, visible: Transcript, marks: Marks) -> Markup:
    if transcript.done and not visible.text and not marks.missing:
        silent = not transcript.text
        note = "No speech was found in this clip." if silent else "Only hidden tags: nothing left to show."
        return Markup('<p class="ev-note">{}</p>').format(note)
    cut = Markup("")
    if transcript.done and transcript.truncated:
        cut = Markup('<p class="ev-note ev-cut">{}</p>').format(
            "Cut short: the text reached its length limit, repeated itself or was broken off before the audio ended."
        )
    return _cues(visible, marks) + cut + _about_recording(transcript)


def _about_recording(transcript: Transcript) -> Markup:
    """After decoding: what the recording lacks, and what of it was left out."""
    lacks = (incomplete(transcript.incomplete),) if transcript.incomplete else ()
    notes = (*lacks, *(f"{note[0].upper()}{note[1:]}." for note in transcript.notes))
    if not transcript.done or not notes:
        return Markup("")
    return Markup('<p class="ev-note">{}</p>').format(" ".join(notes))


def _editor(title: str, transcript: Transcript) -> Markup:
    """The editor: the whole text with hidden tags, a box for each cue."""
    timed = len(transcript.cues) > 1
    boxes = (
        Markup(
            '<label>{}<textarea aria-label="{}" rows="{}" maxlength="{}" spellcheck="false">{}</textarea></label>'
        ).format(
            Markup('<span class="ev-time">{}</span>').format(_about_cue(cue)) if timed else "",
            f"{title}, {_about_cue(cue)}",
            2 + len(cue.text) // 40,  # for browsers that do not fit the box to its content
            MAX_CHARACTERS,
            cue.text,
        )
        for cue in transcript.cues
    )
    return Markup('<div class="ev-editor">{}<p class="ev-note">{}</p></div>').format(
        Markup("").join(boxes), "[tags] in brackets, STRESSED words in capitals."
    )


def _edit_buttons(transcript: Transcript, editing: bool) -> Markup:
    """The edit buttons of a finished text; see COLUMN_EVENTS_JS in `compare`."""
    if not transcript.done or not transcript.cues:
        return Markup("")
    actions = [("done", "Done", "Keep the text as it stands here")] if editing else []
    actions += [("undo", "Undo edit", "Back to what the model wrote")] if transcript.edited else []
    actions += [] if editing else [("open", "Edit", "Change the text before it is copied, downloaded or spoken")]
    buttons = Markup("").join(
        Markup('<button type="button" data-edit="{}" title="{}">{}</button>').format(action, hint, label)
        for action, label, hint in actions
    )
    return Markup('<span class="ev-edit-buttons">{}</span>').format(buttons)


def draw_column(
    column: Column,
    tag_filter: Filter = EVERYTHING,
    marks: Marks = NO_MARKS,
    scores: Mapping[str, str] | None = None,
    editing: bool = False,
    complete: bool = True,
) -> Markup:
    """One column. scores: metric → figure, against a reference.  editing: whether its editor is open.  complete:
    whether the columns beside it are: what is edited before would be lost."""
    title, line = column.heading.title, column.heading.description
    transcript = column.transcript
    text = Markup('<p class="ev-note">{}</p>').format(column.heading.placeholder)
    foot = Markup('<p class="ev-stats">\u00a0</p>')
    buttons = badge = Markup("")
    if transcript is not None:
        visible = tag_filter.apply(transcript)
        text = _editor(title, transcript) if editing else _text(transcript, visible, marks)
        foot = _stats(column.written or transcript, len(visible.tags))
        if transcript.done and not editing:
            foot += _exports(transcript, tag_filter, column.stem)
        buttons = _edit_buttons(transcript, editing) if complete else buttons
        if transcript.edited:
            badge = Markup(' <span class="ev-badge" title="{}">edited</span>').format(
                "A person changed this text: marks, scores and exports are of the text as it stands here"
            )
    table = _score_table(scores) if scores else Markup("")
    return Markup(
        '<article class="ev-column" data-variant="{key}" data-result="{result}" data-seconds="{seconds}" '
        'aria-busy="{busy}"'
        ' aria-label="{title}"><header><h2>{title}{badge}</h2>{buttons}<p>{line}</p></header>'
        '<div class="ev-text" tabindex="0" role="region" aria-label="{title} text"><div>{text}</div></div>{table}'
        '<footer class="ev-foot">{foot}</footer></article>'
    ).format(
        key=column.key,
        result=column.result,
        seconds=transcript.duration if transcript is not None and transcript.done else "",
        busy="false" if transcript is None or transcript.done else "true",
        title=title,
        badge=badge,
        buttons=buttons,
        line=line,
        text=text,
        table=table,
        foot=foot,
    )


def draw_columns(
    columns: Sequence[Column],
    tag_filter: Filter = EVERYTHING,
    scores: Mapping[str, Mapping[str, str]] | None = None,
    editing: str = "",
) -> Markup:
    """All columns, side by side.

    Differences are marked once all texts are complete: from the reference where there is one, else among the columns of
    one clip.  scores: key → metric → figure.  editing: key of the column whose editor is open.
    """
    complete = all(column.transcript.done for column in columns)
    marks = _marks(columns, tag_filter) if complete else {}
    return _side_by_side(
        draw_column(
            column,
            tag_filter,
            marks.get(column.key, NO_MARKS),
            (scores or {}).get(column.key),
            editing=column.key == editing,
            complete=complete,
        )
        for column in columns
    )


def _marks(columns: Sequence[Column], tag_filter: Filter) -> dict[str, Marks]:
    """Highlights for each column, by key."""
    marks: dict[str, Marks] = {}
    compared: dict[str, dict[str, str]] = {}  # clip → key → text
    for column in columns:
        text = tag_filter.apply(column.transcript).text
        if column.reference:
            marks[column.key] = mark_against_reference(tag_filter.apply_to_text(column.reference), text)
        else:
            compared.setdefault(column.clip, {})[column.key] = text
    for texts in compared.values():
        marks |= mark_differences(texts)
    return marks


def draw_empty_columns() -> Markup:
    """The columns before the first clip, when the model's variants are not known yet."""
    return _side_by_side(draw_column(Column(variant, heading(variant))) for variant in HEADINGS)


def _side_by_side(drawn: Iterable[Markup]) -> Markup:
    return Markup('<div class="ev-columns">{}</div>').format(Markup("").join(drawn))


_UNSAFE_IN_NAMES = re.compile(r"[^\w.-]+")


def file_stem(path: str) -> str:
    """A file name for downloads, from the clip's path, without suffix."""
    return safe(path.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0])


def safe(name: str) -> str:
    """A file name without suffix that every system accepts."""
    return _UNSAFE_IN_NAMES.sub("-", name).strip("-.")[:60] or "transcript"

"""The line above the columns: what goes on, what a finished clip says, errors with what to do; and their sentences."""

from collections.abc import Sequence

from markupsafe import Markup

from evoxtral import confidence, tags
from evoxtral.ui.diff import TagChange, tag_change, word_agreement
from evoxtral.ui.view import EVERYTHING, Column, Filter
from evoxtral.ui.wording import counted, enumerated, percent


def _change(before: str, after: str, change: TagChange) -> str:
    if not change.added and not change.dropped:
        return f"{after} has the same tags as {before}"
    counts = {"adds": len(change.added), "drops": len(change.dropped)}
    done = [f"{verb} {counted(count, 'tag')}" for verb, count in counts.items() if count]
    return f"{after} {' and '.join(done)} against {before}"


def doubt(columns: Sequence[Column], tag_filter: Filter) -> str:
    """A warning where a transcript is doubtful, with how to see its hidden tags; else ""."""
    doubtful = [column.transcript for column in columns if column.transcript and column.transcript.doubtful]
    if not doubtful:
        return ""
    hidden = not tag_filter.min_probability and any(
        len(transcript.without(transcript.hide_below).tags) < len(transcript.tags) for transcript in doubtful
    )
    more = " Unlikely tags are hidden: move “At least % sure” to 1 to see them." if hidden else ""
    return confidence.WARNING + more


def agreement(columns: Sequence[Column], tag_filter: Filter = EVERYTHING) -> str:
    """ "All three agree on 93 % of words; RL adds 2 tags against SFT"; different clips are not compared."""
    texts = {column.key: tag_filter.apply(column.transcript).text for column in columns}
    if not any(texts.values()):
        return "No speech was found in this clip."
    if len(texts) < 2:
        return ""
    if len({column.clip for column in columns}) > 1:
        return "These are different clips: their words are not compared."
    everyone = {2: "Both", 3: "All three"}.get(len(texts), f"All {len(texts)}")
    sentence = f"{everyone} agree on {percent(word_agreement(texts))} of words"
    tagged = [column for column in columns if tags.names(texts[column.key])]
    if len(tagged) > 1:
        before, after = tagged[-2:]
        change = tag_change(before.key, after.key, texts)
        sentence += f"; {_change(before.heading.title, after.heading.title, change)}"
    return sentence + "."


def following(columns: Sequence[Column], first: str | None) -> str:
    """While one variant is decoded before the others: which is there, and that the others follow; else ""."""
    titles = {column.key: column.heading.title for column in columns}
    if first not in titles:
        return ""
    there = next(column.transcript.done for column in columns if column.key == first)
    others = enumerated([title for key, title in titles.items() if key != first])
    return f"{titles[first]} {'is complete' if there else 'comes first'}; {others} follow…"


def status(sentence: str) -> Markup:
    """The status line."""
    return Markup('<p class="ev-status" role="status">{}</p>').format(sentence)


def working(sentence: str) -> Markup:
    """The status line while work is in progress."""
    return Markup('<p class="ev-status ev-working" role="status">{}</p>').format(sentence)


def waiting(sentence: str) -> Markup:
    """The status line while waiting; Gradio shows the position in the queue beside it."""
    return Markup('<p class="ev-status ev-waiting" role="status">{}</p>').format(sentence)


def verdict(sentence: str, scored: bool) -> Markup:
    """The sentence on a finished clip, with a legend of its highlights. scored: against a reference."""
    key = [("span", "ev-sure", "how sure"), ("em", "ev-emphasis", "STRESSED")]
    key += [("mark", "ev-differs", "not said" if scored else "not in all")]
    key += [("del", "ev-missing", "missed")] if scored else []
    signs = Markup("").join(Markup('<{} class="{}">{}</{}>').format(tag, name, word, tag) for tag, name, word in key)
    return Markup('<p class="ev-status" role="status">{} <span class="ev-signs">{}</span></p>').format(sentence, signs)


def error(sentence: str) -> Markup:
    """The status line with an error and what to do."""
    return Markup('<p class="ev-status ev-error" role="alert">{}</p>').format(sentence)

"""The grammar of tagged text: `[nervous] So... I NEVER said that. [laughs]`.

One definition of what a tag, an emphasised word and plain text are; the metric, the transcript, the voice and
the screen all use it.

A tag is what Evoxtral-Bench counts, the regular expression `\\[([^\\]]+)\\]`: it starts at the leftmost `[`
and ends at the next `]`, with at least one character between them. Hence, for every function alike:

- Brackets do not nest. In `[a [b] c]` the tag is `[a [b]`, named `a [b`, and ` c]` is text.
- An unclosed `[`, a stray `]` and the empty pair `[]` are text.
- Any name is a tag, also one that the vocabulary does not know; `[ ]` is a tag whose name is empty.

An emphasised word is two or more capitals A-Z between word boundaries, outside tags. In
`[LAUGHS] NO! I DON'T` they are `NO` and `DON`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

CATEGORIES = ("emotion", "non-verbal", "delivery", "pause", "other")

EMPHASIS = re.compile(r"\b[A-Z]{2,}\b")
_SENTENCE_END = re.compile(r"(?<!\.\.)[.!?][\"')\]]*$")  # an ellipsis trails off, it does not end the sentence


@dataclass(frozen=True)
class Text:
    """Characters between two tags, as written."""

    raw: str


@dataclass(frozen=True)
class Tag:
    """One tag as written, brackets included: `[ Laughs ]`."""

    raw: str

    @property
    def name(self) -> str:
        """What the benchmark compares: the inner text, trimmed and lower-cased (`laughs`)."""
        return self.raw[1:-1].strip().lower()


Piece = Text | Tag


@dataclass(frozen=True)
class Entry:
    """What is known about a tag name: its kind (`category`), and the name of its synonyms (`group`)."""

    name: str
    category: str
    group: str


def parse(text: str) -> tuple[Piece, ...]:
    """Split text into tags and the text between them, in linear time; `render` gives the same string back."""
    # str.find instead of the regular expression: from every `[` of a text like "[[[[…", `re` looks for the
    # missing `]` again, which is quadratic. The tests hold both to the same answer.
    pieces: list[Piece] = []
    start = scan = 0
    while (opening := text.find("[", scan)) >= 0 and (closing := text.find("]", opening)) >= 0:
        scan = closing + 1
        if closing == opening + 1:
            continue  # `[]` has no name: it stays in the text
        if opening > start:
            pieces.append(Text(text[start:opening]))
        pieces.append(Tag(text[opening:scan]))
        start = scan
    if start < len(text):
        pieces.append(Text(text[start:]))
    return tuple(pieces)


def render(pieces: Iterable[Piece]) -> str:
    """The string that `parse` was given, or that these pieces spell."""
    return "".join(piece.raw for piece in pieces)


def names(text: str) -> list[str]:
    """Tag names in order, with repetitions, as the benchmark compares them."""
    return [piece.name for piece in parse(text) if isinstance(piece, Tag)]


def without_tags(text: str) -> str:
    """Text with every tag and the white space after it removed; capitals stay."""
    kept: list[str] = []
    after_tag = False
    for piece in parse(text):
        if isinstance(piece, Text):
            kept.append(piece.raw.lstrip() if after_tag else piece.raw)
        after_tag = isinstance(piece, Tag)
    return "".join(kept)


def emphasised(text: str) -> list[str]:
    """Emphasised words outside tags, lower-cased, in order, with repetitions.

    They are looked for in the very string that `plain` lower-cases them in, so the two always agree on what
    was emphasised. `[LAUGHS]` is a tag and stresses no word: it counts as a tag only.
    """
    return [word.lower() for word in EMPHASIS.findall(without_tags(text))]


def unstressed(text: str) -> str:
    """Text with emphasis lower-cased, character by character; for text without tags."""
    return EMPHASIS.sub(lambda word: word.group().lower(), text)


def plain(text: str) -> str:
    """What was said, not how: tags and the white space after them removed, emphasis lower-cased, trimmed."""
    return unstressed(without_tags(text)).strip()


def ends_sentence(word: str) -> bool:
    """Whether a word, as written, is the last of its sentence: there a delivery (`[sad]`, `[whispers]`) ends."""
    return _SENTENCE_END.search(word) is not None


def category(name: str) -> str:
    """One of CATEGORIES; `other` for a name that the vocabulary does not know."""
    entry = VOCABULARY.get(name.strip().lower())
    return entry.category if entry else "other"


def group(name: str) -> str:
    """The name that stands for all its synonyms (`chuckles` → `laughs`); an unknown name is its own group."""
    key = name.strip().lower()
    entry = VOCABULARY.get(key)
    return entry.group if entry else key


# ElevenLabs v3 takes any words as a tag; these are the ones that its guide and the model card name, and the
# ways people write them. Category → group → the other names in the group. A group is named as the training
# set writes it. Groups serve display and grouped scores; nobody rewrites a tag with them.
_GROUPS: Mapping[str, Mapping[str, str]] = {
    "emotion": {
        "nervous": "nervously, anxious, anxiously, worried, uneasy, tense, stressed",
        "excited": "excitedly, enthusiastic, enthusiastically, eager, thrilled, energetic",
        "happy": "happily, cheerful, cheerfully, joyful, joyfully, delighted, upbeat, lighthearted",
        "sad": "sadly, sorrowful, sorrowfully, melancholic, mournful, heartbroken, depressed, somber",
        "angry": "angrily, furious, furiously, mad, enraged, outraged",
        "calm": "calmly, relaxed, serene, soothing, peaceful",
        "frustrated": "frustratedly, exasperated, frustration",
        "annoyed": "irritated, impatient, impatiently",
        "scared": "afraid, frightened, fearful, fearfully, terrified, panicked, panicking",
        "confused": "confusedly, puzzled, bewildered, uncertain, unsure",
        "surprised": "shocked, amazed, astonished, awe, in awe, stunned",
        "curious": "curiously, intrigued, questioning, inquisitive",
        "disappointed": "disappointedly, dismayed, let down",
        "tired": "wearily, weary, exhausted, sleepy",
        "bored": "indifferent, uninterested",
        "thoughtful": "thoughtfully, pensive, reflective, wistful, contemplative",
        "embarrassed": "sheepish, sheepishly, ashamed, awkward, awkwardly",
        "relieved": "with relief, relief",
        "hopeful": "hopefully, optimistic",
        "proud": "proudly, triumphant",
        "confident": "confidently, determined",
        "warm": "warmly, affectionate, tender, tenderly, loving",
        "sympathetic": "sympathetically, compassionate, kind, reassuring, reassuringly",
        "desperate": "desperately, pleading, begging",
        "disgusted": "disgustedly, grossed out",
        "guilty": "apologetic, apologetically, regretful, remorseful",
        "jealous": "envious",
        "resigned": "resigned tone",
    },
    "non-verbal": {
        "laughs": "🤣, laugh, laughing, laughter, laughs harder, starts laughing, laughs nervously, "
        "nervous laugh, nervous laughter, laughs softly, soft laugh, light laugh, laughs loudly, "
        "bursts out laughing, bitter laugh, evil laugh, happy laugh, big laugh, chuckle, chuckles, "
        "chuckling, light chuckle, giggle, giggles, giggling, snickers, cackles",
        "sighs": "😤, sigh, sighing, sighs heavily, heavy sigh, deep sigh, sighs deeply, frustrated sigh, "
        "happy sigh, sigh of relief, sighs with relief",
        "exhales": "exhale, exhaling, exhales sharply, exhales deeply, breathes out, long exhale",
        "inhales": "inhale, inhaling, inhales deeply, inhales sharply, sharp inhale, breathes in, "
        "takes a breath, takes a deep breath, deep breath",
        "breathes": "🌬, breath, breathing, breathes heavily, heavy breathing, pants, panting, out of breath, "
        "breathless",
        "gasps": "gasp, gasping, gasps loudly, sharp gasp",
        "clears throat": "🗣, 👄, throatclearing, clear throat, clearing throat, throat clear, throat clearing, "
        "clears his throat, clears her throat, ahem",
        "coughs": "😷, cough, coughing, coughs softly, coughing fit",
        "sneezes": "🤧, sneeze, sneezing",
        "sniffs": "👃, sniff, sniffing, sniffle, sniffles, sniffling",
        "crying": "cry, cries, starts crying, sob, sobs, sobbing, weeps, weeping, tearful, tearfully, "
        "whimpers, whimpering",
        "yawns": "yawn, yawning",
        "gulps": "gulp, gulping, swallow, swallows, swallowing, swallows hard",
        "snorts": "snort, snorting",
        "scoffs": "scoff, scoffing",
        "groans": "😖, 😫, 👊, 🐖, groan, groaning, moans, moaning, grunts, grunt",
        "hums": "hum, humming, hmm, mhm",
        "wheezing": "wheeze, wheezes",
        "screams": "scream, screaming, shrieks, shriek",
        "cheers": "cheering, woo, whoops",
        "clicks tongue": "tongue click, tuts, tsk",
        "hiccups": "hiccup, hiccuping",
        "burps": "burp",
        "whistles": "whistle, whistling",
        "growls": "growl, growling",
        "kisses": "kiss",
        "smacks lips": "lip smack",
        "shivers": "shivering, shudders, shuddering",
        "snores": "😴, snore, snoring",
    },
    "delivery": {
        "whispers": "whisper, whispering, whispered, whispers softly, in a whisper, hushed, under breath",
        "shouts": "shout, shouting, shouted, yell, yells, yelling, loudly, loud, calls out",
        "stammers": "stammer, stammering, stutters, stutter, stuttering",
        "hesitates": "hesitate, hesitant, hesitantly, hesitating",
        "sarcastic": "sarcastically, ironic, ironically, mocking, mockingly",
        "mischievously": "mischievous, playful, playfully, teasing, teasingly, cheeky, sly",
        "softly": "soft, quietly, quiet, gently, gentle, low voice",
        "slowly": "slow, slows down, deliberate, deliberately",
        "rushed": "fast, quickly, quick, rapid, rapidly, hurried, rapid-fire, speeds up",
        "drawn out": "drawls, drawling, drawl",
        "sings": "sing, singing, sings quickly, singsong",
        "deadpan": "flat, flatly, monotone, matter-of-fact, emotionless, dry",
        "dramatically": "dramatic, dramatic tone, theatrical",
        "seriously": "serious, serious tone, firm, firmly, stern, sternly",
        "mumbles": "mumble, mumbling, mutters, muttering",
        "emphasized": "emphatic, emphatically, stress on next word",
        "understated": "offhand",
        "trembling": "voice breaking, voice cracks, voice breaks, shaky, shakily, shaky voice",
        "robotic tone": "robotic, robot voice",
        "casual": "casually, conversational tone",
        "interrupting": "interrupts, overlapping, cuts in, jumping in",
        "british accent": "strong british accent",
        "american accent": "strong american accent",
        "australian accent": "strong australian accent",
        "french accent": "strong french accent",
        "german accent": "strong german accent",
        "russian accent": "strong russian accent",
        "southern accent": "strong southern accent",
        "pirate voice": "pirate accent",
    },
    "pause": {
        "pause": "pauses, short pause, brief pause, small pause, long pause, dramatic pause, "
        "awkward pause, beat, continues after a beat, silence, awkward silence",
    },
    "other": {
        "applause": "clapping, claps",
        "gunshot": "gunshots, gunfire",
        "explosion": "explosions",
        "footsteps": "steps",
        "knocking": "knocks",
        "door slams": "door closes",
        "music": "music playing, background music",
        "phone ringing": "phone rings, ringing",
    },
}


def _vocabulary() -> Mapping[str, Entry]:
    entries: dict[str, Entry] = {}
    for kind, groups in _GROUPS.items():
        for head, synonyms in groups.items():
            for name in (head, *synonyms.split(", ")):
                if name in entries:
                    raise ValueError(f"{name!r} is in two groups: {entries[name].group!r} and {head!r}")
                entries[name] = Entry(name, kind, head)
    return MappingProxyType(entries)


VOCABULARY: Mapping[str, Entry] = _vocabulary()

"""Tagged text -> speech, with the true time of every word and tag.

The embedded voice is espeak-ng plus this project's own effects: it needs no network, no model and no system package.
It is what the scale model learns from and understands.
"""

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from evoxtral import foreign_formats, tags
from evoxtral.audio import SAMPLE_RATE
from evoxtral.errors import SpeechError
from evoxtral.speech import effects, natural_voices
from evoxtral.speech.espeak import Espeak, Prosody

LANGUAGES = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland")  # accents of English, espeak-ng names
FEMALE = ("f1", "f2", "f3", "f4", "f5", "Annie", "belinda", "linda", "steph", "anika")
MALE = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "adam", "Andy", "benjamin", "edward", "ian", "john", "max",
        "Michael", "Mike", "paul", "robert", "victor")  # fmt: skip
FURTHER_FEMALE = ("Alicia", "Andrea", "grandma")  # heard in training, not offered: rougher ones
FURTHER_MALE = ("AnxiousAndy", "Denis", "Gene", "Gene2", "Henrique", "Hugo", "Jacky", "Lee", "Marco", "Mario",
                "Reed", "RicishayMax", "antonio", "boris", "david", "ed", "gustave", "iven", "iven2", "iven3",
                "kaukovalta", "marcelo", "michel", "miguel", "mike2", "norbert", "pablo", "pedro", "quincy", "rob",
                "sandro", "shelby", "travis", "zac")  # fmt: skip
VOICES = tuple(f"{language}+{variant}" for language in LANGUAGES for variant in FEMALE + MALE)
DEFAULT_VOICE = "en-us+f3"

PAUSES = {
    "short pause": (0.5, 0.6),
    "pause": (0.9, 1.25),
    "long pause": (1.8, 2.4),
}  # s; ordinary gaps are about 0.4 s at most
AUDIBLE = 0.004  # of full scale
HEARD = 0.03  # of a word's peak: what rings on after it is lower
STAMMERS = "stammers"
NOTHING = "There is nothing to speak: write some words, or a tag such as [laughs]."
SPOKEN_TAGS = (*effects.SOUNDS, *effects.DELIVERIES, STAMMERS, *PAUSES)
_LAST_MARK = re.compile(r"([!?])[\"')\]]*$")
_FIRST_SYLLABLE = re.compile(r"[^\Waeiou]*[aeiou]", re.IGNORECASE)


@dataclass(frozen=True)
class Timed:
    """A word, or a tag's name as written, with where it sounds, in seconds from the start of the waveform."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Speech:
    """waveform: (T,) float32 at 16 kHz, in [-1, 1]. skipped: the tags, as written, that are not in it: the voice has no
    sound for them, or nothing comes after them that they could act on."""

    waveform: np.ndarray
    words: tuple[Timed, ...]
    tags: tuple[Timed, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class _Said:
    """A tag that the voice can speak. name: one of SPOKEN_TAGS.  place: which piece of the text it is."""

    name: str
    tag: tags.Tag
    place: int


@dataclass(frozen=True)
class _Phrase:
    """Words in one breath and one colour. `opened` are the delivery tags that begin here."""

    words: tuple[str, ...]
    deliveries: tuple[_Said, ...]
    opened: tuple[_Said, ...]
    stammer: _Said | None


def spoken_as(name: str) -> str | None:
    """The sound, delivery or pause that the embedded voice has for a tag's name or a synonym; None if it has none."""
    return next((n for n in (name, tags.group(name)) if n in SPOKEN_TAGS), None)


def speak(text: str, voice: str = DEFAULT_VOICE, seed: int = 0) -> Speech:
    """Speak tagged text: `[sighs] I told you. [whispers] It is a SECRET.`

    A delivery (`[sad]`, `[whispers]`) colours the rest of its sentence, or up to the next one; two in a row add up.
    `[stammers]` acts on the next word. A word in capitals is stressed. Tags without a sound, or without a word to act
    on, are skipped and reported.
    voice: one of VOICES, or any espeak-ng voice. seed: the speaker's rate and pitch and the grain of every sound;
    the same arguments give the same waveform.
    Raises SpeechError when nothing in the text can be spoken or the voice does not exist.
    """
    if seed < 0:
        raise SpeechError(f"The seed is {seed}: it must be 0 or a whole number above.")
    plan, skipped = _plan(text.encode(errors="replace").decode())  # half a surrogate pair is no character
    if not plan:
        raise SpeechError(NOTHING)
    rng = np.random.default_rng(seed)
    if natural_voices.is_natural(voice):
        natural = natural_voices.reader(voice, rng.uniform(0.95, 1.15))
        return _recorded(plan, skipped, natural_voices.NaturalSpeaker(natural, rng), rng)
    with Espeak() as engine:
        return _recorded(plan, skipped, _Embedded(engine, voice, rng), rng)


def perform(text: str, speaker: natural_voices.NaturalSpeaker, rng: np.random.Generator) -> Speech:
    """Speak tagged text as this speaker does: see `speak`."""
    plan, skipped = _plan(text)
    return _recorded(plan, skipped, speaker, rng)


def _recorded(plan: list, skipped: list[str], speaker: "Speaker", rng: np.random.Generator) -> Speech:
    recording = _Recording(speaker, rng)
    previous = None
    for item in plan:
        if isinstance(item, _Said):
            recording.add_sound(item)
        else:
            recording.add_phrase(item, after_phrase=isinstance(previous, _Phrase))
        previous = item
    return recording.finish(tuple(skipped))


def _plan(text: str) -> tuple[list[_Said | _Phrase], list[str]]:
    """What to sound, in order, and the tags and elements of SSML that were skipped."""
    text, markup = foreign_formats.without_markup(text)
    plan: list[_Said | _Phrase] = []
    skipped: dict[int, str] = {}  # by place
    words: list[str] = []
    deliveries: list[_Said] = []  # of the current sentence
    opened: list[_Said] = []  # deliveries whose tag stands right before the coming words
    stammer: _Said | None = None

    def flush(end_of_sentence: bool = False) -> None:
        nonlocal stammer
        if words:
            plan.append(_Phrase(tuple(words), tuple(deliveries), tuple(opened), stammer))
            words.clear(), opened.clear()
            stammer = None
        if end_of_sentence:
            deliveries.clear()

    for place, piece in enumerate(tags.parse(text)):
        if isinstance(piece, tags.Tag):
            name = spoken_as(piece.name)
            if name is None:
                skipped[place] = piece.raw
                continue
            flush()
            said = _Said(name, piece, place)
            if any(name == waiting.name for waiting in (*opened, stammer) if waiting):
                skipped[place] = piece.raw  # it acts on the coming words already
            elif name == STAMMERS:
                stammer = said
            elif name in effects.DELIVERIES:
                if not opened:
                    deliveries.clear()
                deliveries.append(said), opened.append(said)
            else:
                plan.append(said)
        else:
            for word in piece.raw.split():
                words.append(word)
                if tags.ends_sentence(word):
                    flush(end_of_sentence=True)
    flush()
    for waiting in (*opened, stammer):
        if waiting:
            skipped[waiting.place] = waiting.tag.raw
    return plan, [*markup, *(skipped[place] for place in sorted(skipped))]


def _by_number(word: str) -> str:
    """A word whose letters outside ASCII are their numbers in Unicode: so espeak-ng reads letters that it has no name
    for, but those newer than its tables it passes over.
    """
    return "".join(f"{ord(c):x}" if c.isalnum() and not c.isascii() else c for c in word)


def _sounding(waveform: np.ndarray) -> int:
    """Number of samples up to the last audible one: the gap after a comma is not part of its word."""
    level = np.abs(waveform)
    heard = np.nonzero(level > HEARD * level.max(initial=0))[0]
    return int(heard[-1]) + 1 if len(heard) else len(waveform)


class Speaker(Protocol):
    """Who speaks a recording: the embedded voice or a `natural_voices.NaturalSpeaker`."""

    def sound(self, name: str) -> np.ndarray:
        """A sound of `effects.SOUNDS`, (T,)."""

    def phrase(
        self, words: tuple[str, ...], names: list[str], stammered: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Words in one breath, in the named deliveries: what is stammered before them (T,), the waveform (T,), and the
        seconds in it at which words begin and end, (words, 2).
        """


class _Embedded:
    """espeak-ng and `effects`: the embedded voice as a speaker of a recording."""

    def __init__(self, engine: Espeak, voice: str, rng: np.random.Generator) -> None:
        self.engine, self.voice, self.rng = engine, voice, rng
        self.speaker = Prosody(rng.uniform(150, 195), rng.uniform(38, 60), rng.uniform(40, 65))
        self.language, _, variant = voice.partition("+")
        self.female = variant in FEMALE + FURTHER_FEMALE

    def sound(self, name: str) -> np.ndarray:
        return effects.SOUNDS[name](self.rng, self.female)

    def phrase(
        self, words: tuple[str, ...], names: list[str], stammered: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        deliveries = [effects.DELIVERIES[name] for name in names] or [effects.NEUTRAL]
        prosody, voice = self.speaker, self.voice
        for delivery in deliveries:
            prosody = delivery.prosody(prosody)
        if any(d.whispered for d in deliveries):
            voice = f"{self.language}+{'whisperf' if self.female else 'whisper'}"
        stammer = self._stammer(words[0], voice, prosody) if stammered else effects.silence(0)
        waveform, starts = self._say(words, voice, prosody)
        mark = _LAST_MARK.search(words[-1])
        melody = [effects.MELODIES[mark[1]]] if mark else []
        for colour in (*melody, *(delivery.colour for delivery in deliveries)):
            waveform, positions = colour(waveform, self.rng)
            if positions is not None:
                starts = np.searchsorted(positions, starts)
        spans = list(pairwise([*map(int, starts), len(waveform)]))
        times = [(first, first + _sounding(waveform[first:following])) for first, following in spans]
        return stammer, waveform, np.array(times) / SAMPLE_RATE

    def _say(self, words: tuple[str, ...], voice: str, prosody: Prosody) -> tuple[np.ndarray, np.ndarray]:
        """Wave at 16 kHz without the silence around it, and the sample at which each word starts."""
        import soxr

        stressed = {
            i: (int(self.rng.integers(45, 70)), int(self.rng.integers(58, 72)))  # pitch in %, rate in %
            for i, word in enumerate(words)
            if tags.emphasised(word)
        }
        # Capitals are read letter by letter by espeak-ng, and they mean stress here: lower-case them.
        spoken = [word.lower() if i in stressed else word for i, word in enumerate(words)]
        waveform, starts = self.engine.synthesize(spoken, voice, prosody, stressed)
        waveform = soxr.resample(waveform, self.engine.rate, SAMPLE_RATE)
        audible = np.nonzero(np.abs(waveform) > AUDIBLE)[0]
        if not len(audible) and (numbered := tuple(map(_by_number, words))) != words:
            return self._say(numbered, voice, prosody)
        first, last = (max(0, audible[0] - 160), audible[-1] + 160) if len(audible) else (0, len(waveform))
        starts = np.clip((np.array(starts) * SAMPLE_RATE).astype(int) - first, 0, max(0, last - first - 1))
        return waveform[first:last], starts

    def _stammer(self, word: str, voice: str, prosody: Prosody) -> np.ndarray:
        """The word's first syllable, cut short, two or three times."""
        match = _FIRST_SYLLABLE.search(word)
        syllable, _ = self._say((match.group() if match and len(word) > 3 else word,), voice, prosody)
        syllable = effects.peak(syllable[: int(0.22 * SAMPLE_RATE)], effects.NORMAL)
        fade = min(len(syllable), int(0.02 * SAMPLE_RATE))
        syllable[len(syllable) - fade :] *= np.linspace(1, 0, fade)
        gaps = [effects.silence(self.rng.uniform(0.05, 0.12)) for _ in range(self.rng.integers(2, 4))]
        return np.concatenate([part for gap in gaps for part in (syllable, gap)])


class _Recording:
    """The waveform as it grows, with the times of what is in it."""

    def __init__(self, speaker: "Speaker", rng: np.random.Generator) -> None:
        self.speaker, self.rng = speaker, rng
        self.parts = [effects.silence(rng.uniform(0.08, 0.25))]
        self.count = len(self.parts[0])  # samples so far
        self.words: list[Timed] = []
        self.tags: list[Timed] = []
        self.reach: dict[int, int] = {}  # place of a delivery in the text -> in self.tags

    @property
    def now(self) -> float:
        return self.count / SAMPLE_RATE  # s

    def _append(self, waveform: np.ndarray) -> None:
        self.parts.append(waveform)
        self.count += len(waveform)

    def _gap(self, low: float, high: float) -> None:
        self._append(effects.silence(self.rng.uniform(low, high)))

    def add_sound(self, sound: _Said) -> None:
        start = self.now
        if sound.name in PAUSES:
            self._gap(*PAUSES[sound.name])
        else:
            self._append(self.speaker.sound(sound.name))
        self.tags.append(Timed(sound.tag.name, start, self.now))
        if sound.name not in PAUSES:
            self._gap(0.08, 0.2)

    def add_phrase(self, phrase: _Phrase, after_phrase: bool) -> None:
        if after_phrase:
            self._gap(0.15, 0.32)
        start = self.now
        names = [said.name for said in phrase.deliveries]
        stammer, waveform, times = self.speaker.phrase(phrase.words, names, bool(phrase.stammer))
        if phrase.stammer:
            self._append(stammer)
            self.tags.append(Timed(phrase.stammer.tag.name, start, self.now))
        for word, (first, end) in zip(phrase.words, times, strict=True):
            self.words.append(Timed(word, self.now + float(first), self.now + float(end)))
        self._append(waveform)
        for said in phrase.deliveries:
            if said in phrase.opened:
                self.reach[said.place] = len(self.tags)
                self.tags.append(Timed(said.tag.name, start, self.now))
            else:  # a phrase later in the same sentence: one tag, that reaches further
                tag = self.tags[self.reach[said.place]]
                self.tags[self.reach[said.place]] = replace(tag, end=self.now)

    def finish(self, skipped: tuple[str, ...]) -> Speech:
        self._gap(0.1, 0.25)
        waveform = np.clip(np.concatenate(self.parts), -1, 1).astype(np.float32)
        if not self.tags and not waveform.any():  # punctuation alone
            raise SpeechError(NOTHING)
        return Speech(waveform, tuple(self.words), tuple(sorted(self.tags, key=lambda t: t.start)), skipped)

"""The Speak tab: write a tagged script, hear it, and send it on to be transcribed."""

import itertools
import random
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import gradio as gr
import numpy as np
from markupsafe import Markup

from evoxtral import audio, speech, tags
from evoxtral.errors import EvoxtralError, SpeechError
from evoxtral.speech import Speech, Timed, elevenlabs, performer
from evoxtral.ui import theme, view
from evoxtral.ui.charts import Axis
from evoxtral.ui.compare import QUIETLY, CompareTab
from evoxtral.ui.endpoints import endpoint, text_input, typed

MAX_CHARACTERS = 2_000  # of a script: about two minutes of speech
HINT = "Write a script, or let one surprise you; a tag goes in where the cursor stands."
ASKING = "ElevenLabs is speaking: this can take a minute…"
KEY_INFO = "Your key goes to ElevenLabs with each request, through this server, and is kept nowhere but in this page."
ACCENTS = {"en-us": "American", "en": "British", "en-gb-x-rp": "British (RP)", "en-gb-scotland": "Scottish"}
SEED_INFO = "Of pace and pitch: any number."
TOLD = Markup('<div class="ev-timeline"><p>{}</p>{}</div>')
LANES = Markup('<div class="ev-lanes"><ol style="--ev-across:{:.4f}">{}</ol><div aria-hidden="true">{}</div></div>')
# The next step is the primary button: Speak while the script is new, then the one that sends on what is spoken.
# The browser sees to it, as a script changes with every key.
WRITTEN = '() => [{variant: "primary", __type__: "update"}, {variant: "secondary", __type__: "update"}]'
HEARD = """() => [
  {variant: "secondary", __type__: "update"}, {variant: "primary", interactive: true, __type__: "update"}
]"""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s")

# A surprise is one of the first and one of the second: how somebody begins, and the turn that it takes.
OPENINGS = (
    "[stammers] I see your point, but consider the garden.",
    "[calm] The little walrus closed its eyes [pause] and dreamed of the sea.",
    "[whispers] I've been secretly watching that hospital drama without you.",
    "[crying] Please, cried the snowman, let me go HOME!",
    "[excited] I can't believe you remembered my favourite cake!",
    "[sad] The shop where I bought my first guitar is closed.",
    "[nervous] Please don't be angry, but I ruined the wheelbarrow.",
    "[clears throat] Alright everyone, let's get started with the budget.",
    "[shouts] That is NOT how you hold a saucepan!",
    "[frustrated] I've already restarted the telephone four times!",
    "[angry] You forgot my birthday because of football?",
    "[gasps] Sorry to bother you, but could I borrow some sugar?",
)
TURNS = (
    "[clears throat] We need sixteen more plates on Friday.",
    "[pause] The king gave his last helmet to a poor nurse.",
    "[laughs] I laughed so hard I missed the last bus.",
    "[sighs] What a terrible way to end the year.",
    "[laughs] I think I'm COMPLETELY in love with Ravi!",
    "[excited] It starts on Monday morning!",
    "[whispers] The soup is cold.",
    "[sighs] You want me to wait until Sunday?",
    "[pause] I baked a cake for the school play.",
    "[short pause] Never mind. [laughs]",
    "[gasps] Is that my umbrella?",
    "[calm] We have all the time in the world.",
)


def surprises() -> Iterator[str]:
    """Every script that a surprise can be."""
    return map(" ".join, itertools.product(OPENINGS, TURNS))


def palette() -> Markup:
    """A button for every tag that the voice can make, by category; the page's script inserts its text."""
    rows = []
    for category in tags.CATEGORIES:
        names = [name for name in speech.SPOKEN_TAGS if tags.category(name) == category]
        buttons = Markup("").join(
            Markup('<button type="button" class="ev-tag ev-{}" data-insert="[{}] ">{}</button>').format(
                category, name, name
            )
            for name in names
        )
        if names:
            rows.append(Markup('<p><span class="ev-kind">{}</span>{}</p>').format(category.capitalize(), buttons))
    return Markup('<div class="ev-palette" role="group" aria-label="Insert a tag">{}</div>').format(
        Markup("").join(rows)
    )


def timeline(spoken: Speech) -> Markup:
    """How much was spoken, and where each tag sounds, if there are any."""
    length = audio.duration(spoken.waveform)
    told = f"{view.counted(len(spoken.words), 'word')}, {view.counted(len(spoken.tags), 'tag')}, {length:.1f} s"
    if not spoken.tags:
        return TOLD.format(f"{told}.", "")
    return TOLD.format(f"{told}: where each tag sounds, in seconds", _lanes(spoken.tags, length))


def _lanes(sounds: Sequence[Timed], length: float) -> Markup:
    """A lane for each tag that sounds, on an axis of `length` seconds."""
    lanes: dict[str, list[Timed]] = {}
    for sound in sounds:
        lanes.setdefault(sound.text, []).append(sound)
    ticks = [(second, name) for second, name in Axis.around("seconds", (0, length)).ticks if second <= length]
    return LANES.format(
        ticks[1][0] / length,
        Markup("").join(_lane(name, lane, length) for name, lane in lanes.items()),
        Markup("").join(
            Markup('<span class="ev-tick-x" style="--ev-across:{:.4f}">{}</span>').format(second / length, name)
            for second, name in ticks
        ),
    )


def _lane(name: str, sounds: Sequence[Timed], length: float) -> Markup:
    """A tag with its times, and a bar for each; what sounds late is labelled at its end, where there is room."""
    places = [f"--ev-from:{sound.start / length:.4f};--ev-to:{sound.end / length:.4f}" for sound in sounds]
    return Markup('<li class="ev-{}{}" style="{}"><span class="ev-tag">{}</span> <small>{}</small>{}</li>').format(
        tags.category(name),
        " ev-late" if sounds[0].start + sounds[0].end > length else "",
        places[0],
        name,
        ", ".join(f"{sound.start:.1f}–{sound.end:.1f}" for sound in sounds),
        Markup("").join(Markup('<i style="{}"></i>').format(place) for place in places),
    )


def bounded(script: str) -> str:
    """The script, unless it is too long. Raises SpeechError."""
    if len(script) > MAX_CHARACTERS:
        raise SpeechError(f"The script has {len(script):,} characters; at most {MAX_CHARACTERS:,} are spoken at once.")
    return script


def say(script: str, voice: str, seed: float) -> Speech:
    """Speak a script of bounded length. Raises SpeechError."""
    names = tags.names(bounded(script))
    if names and not tags.plain(script) and not any(map(speech.spoken_as, names)):
        unknown = _listed(f"[{name}]" for name in names)
        raise SpeechError(
            f"There is nothing to speak: the voice has no sound for {unknown}. Write words, or a tag such as [laughs]."
        )
    return speech.speak(script, voice, abs(int(seed or 0)))  # the box may be empty


def perform(script: str, voice: str, seed: float) -> tuple:
    """What the Speak button gives: status, the clip, the timeline, and the script that was spoken."""
    try:
        spoken = say(script, voice, seed)
    except EvoxtralError as error:
        return view.alarm(str(error)), gr.skip(), gr.skip(), gr.skip()
    told = "Spoken." if not spoken.skipped else f"Left out, no sound or no word to act on: {_listed(spoken.skipped)}."
    return view.status(told), playable(spoken), timeline(spoken), script


def perform_there(script: str, key: str, voice: str, api: str = elevenlabs.API) -> Iterator[tuple]:
    """What the button for ElevenLabs gives, as `perform`. key: the visitor's own; it is used for this and forgotten."""
    yield view.status(ASKING), gr.skip(), gr.skip(), gr.skip()
    try:
        recording = elevenlabs.speak(bounded(script), key or "", voice or "", api)
        length = audio.duration(audio.load(recording))
    except EvoxtralError as error:
        yield view.alarm(str(error)), gr.skip(), gr.skip(), gr.skip()
        return
    told = TOLD.format(f"{length:.1f} s. Where each tag sounds is known for the embedded voice only.", "")
    with tempfile.TemporaryDirectory() as folder:  # Gradio takes its own copy while we wait at the yield
        clip = Path(folder) / "elevenlabs.mp3"
        clip.write_bytes(recording)
        yield view.status("Spoken by ElevenLabs v3."), str(clip), told, script


def playable(spoken: Speech) -> tuple[int, np.ndarray]:
    """(rate in Hz, (T,) int16): Gradio would turn the volume of a float waveform up to the full."""
    return audio.SAMPLE_RATE, (spoken.waveform * 32767).astype(np.int16)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def another(script: str) -> tuple:
    """A script that is not the one there; that one, and the button that brings it back."""
    return random.choice([other for other in surprises() if other != script]), *_put_away(script)


def _put_away(script: str) -> tuple:
    """A script that another takes the place of, and the button that brings it back: what is typed is not lost."""
    return script, gr.Button(visible=bool(script.strip()))


def speak(script: str, voice: str = speech.DEFAULT_VOICE, seed: float = 0) -> tuple[tuple[int, np.ndarray], list[str]]:
    """Speak a tagged script in the embedded voice.

    Args:
        script: Words, and tags such as [sighs] and [whispers]; a word in capitals is stressed.
        voice: An accent of English and a speaker, by espeak-ng's names.
        seed: A whole number; another one is another pace and pitch of the same voice.

    Returns:
        A recording at 16 kHz.
        The tags, as written, that were left out: the voice has no sound for them.
    """
    spoken = say(script, voice, seed)
    return playable(spoken), list(spoken.skipped)


class SpeakTab:
    """Lays the tab out and connects it, also to the Compare tab that its clips are sent to."""

    def __init__(self, compare: CompareTab, tabs: gr.Tabs):
        with gr.Row(elem_classes="ev-speak"):
            with gr.Column(min_width=320):
                self._lay_out_script()
            with gr.Column(min_width=320):
                self.status = gr.HTML(view.status(HINT), elem_id="speak-status", apply_default_css=False)
                self.clip = gr.Audio(
                    label="What is spoken",
                    type="filepath",
                    interactive=False,
                    buttons=["download"],
                    elem_id="spoken",
                    waveform_options=gr.WaveformOptions(*theme.WAVEFORM),
                )
                self.timeline = gr.HTML(elem_id="timeline", apply_default_css=False)
                self.spoken = gr.State()  # the script of the clip; the one in the box may have changed since
                self.send = gr.Button(
                    "Transcribe it, with the script as the reference", elem_id="send", interactive=False
                )
        self._connect(compare, tabs)

    def _lay_out_script(self) -> None:
        self.script = gr.Textbox(
            next(surprises()),
            label="Script",
            lines=5,
            max_lines=8,
            max_length=MAX_CHARACTERS,
            elem_id="script",
        )
        gr.HTML(palette(), apply_default_css=False)
        with gr.Row():
            self.voice = gr.Dropdown(
                [(voice_name(voice), voice) for voice in (*performer.installed(), *speech.VOICES)],
                value=speech.DEFAULT_VOICE,
                label="Voice",
                info=voice_info(),
                scale=2,
            )
            self.seed = gr.Number(0, label="Variation", info=SEED_INFO, precision=0, min_width=80)
        with gr.Row():
            self.another = gr.Button("Surprise me", elem_id="another", min_width=120)
            self.back = gr.Button("Bring mine back", elem_id="back", min_width=120, visible=False)
            self.speak = gr.Button("Speak", variant="primary", elem_id="speak", min_width=120)
        self.before = gr.State("")
        with gr.Accordion("In ElevenLabs v3, with your own key", open=False, elem_id="elevenlabs"):
            gr.HTML(Markup('<p class="ev-links">{}</p>').format(KEY_INFO), apply_default_css=False)
            with gr.Row():
                self.key = gr.Textbox(
                    label="ElevenLabs key",
                    type="password",
                    html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
                    elem_id="key",
                    min_width=200,
                )
                self.their_voice = gr.Dropdown(
                    list(elevenlabs.VOICES.items()),
                    value=elevenlabs.DEFAULT_VOICE,
                    label="Voice, or the id of another",
                    allow_custom_value=True,
                    elem_id="their-voice",
                    min_width=160,
                )
            self.speak_there = gr.Button("Speak in ElevenLabs v3", elem_id="speak-there")

    def _connect(self, compare: CompareTab, tabs: gr.Tabs) -> None:
        spoken = [self.script, self.voice, self.seed]
        heard = [self.status, self.clip, self.timeline, self.spoken]
        replaced = [self.script, self.before, self.back]
        self.another.click(another, self.script, replaced, **QUIETLY)
        self.back.click(lambda script, before: (before, *_put_away(script)), replaced[:2], replaced, **QUIETLY)
        self.speak.click(perform, spoken, heard, **QUIETLY)
        self.speak_there.click(
            perform_there,
            [self.script, self.key, self.their_voice],
            heard,
            show_progress="hidden",
            api_visibility="private",
            concurrency_limit=8,  # others wait for a network, not for this machine
        )
        self.script.change(None, None, [self.speak, self.send], js=WRITTEN, **QUIETLY)
        self.clip.change(None, None, [self.speak, self.send], js=HEARD, **QUIETLY)
        sent = self.send.click(
            hand_over, [self.clip, self.spoken], [self.status, tabs, compare.clip, compare.reference], **QUIETLY
        )
        compare.decode_after(sent.success)
        compare.columns.say(take_over, self.script, [tabs, self.status, *replaced], **QUIETLY)
        script = text_input("Script", "[sighs] I told you. [whispers] It is a SECRET.")
        outputs = gr.Audio(label="Speech", visible=False), typed(list[str], "Skipped tags")
        endpoint(speak, [script, self.voice, self.seed], *outputs)


def hand_over(clip: str, script: str) -> tuple:
    """Status, the open tab, and the Compare tab's clip and reference."""
    return view.status(HINT), gr.Tabs(selected="compare"), clip, script


def take_over(say: gr.EventData, script: str) -> tuple:
    """The open tab, status, the script from a transcript that is to be spoken, and the one before it."""
    text = beginning(say.text)
    told = HINT if text == say.text else f"The text is long: these are the first {len(text):,} of its characters."
    return gr.Tabs(selected="speak"), view.status(told), text, *_put_away(script)


def beginning(text: str) -> str:
    """As many whole sentences of a text as are spoken at once; of one endless sentence, as many words."""
    if len(text) <= MAX_CHARACTERS:
        return text
    cut = text[: MAX_CHARACTERS + 1]
    *_, end = [0, *(match.start() for match in _SENTENCE_END.finditer(cut))]
    return cut[: end or max(cut.rfind(" "), 0) or MAX_CHARACTERS]


def voice_info() -> str:
    """How many voices there are here, and whether natural ones could be more."""
    count, natural = len(speech.VOICES), len(performer.installed())
    told = f"{count + natural} of them: type to find one."
    return told if natural else f"{told} For natural ones, see the README's “Voices”."


def voice_name(voice: str) -> str:
    """ "en-us+f3" → "American, woman 3"."""
    if performer.is_natural(voice):
        return performer.title(voice)
    language, variant = voice.split("+")
    sex, speakers = ("woman", speech.FEMALE) if variant in speech.FEMALE else ("man", speech.MALE)
    return f"{ACCENTS[language]}, {sex} {speakers.index(variant) + 1}"

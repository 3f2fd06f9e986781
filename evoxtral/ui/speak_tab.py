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

from evoxtral import audio, foreign_formats, speech, tags
from evoxtral.errors import EvoxtralError, SpeechError
from evoxtral.speech import Speech, Timed, elevenlabs, natural_voices
from evoxtral.ui import status_line, theme, wording
from evoxtral.ui.charts import Axis
from evoxtral.ui.compare_tab import REDRAW_ONLY, CompareTab
from evoxtral.ui.endpoints import endpoint, json_output, text_input

MAX_CHARACTERS = 2_000  # of a script: about two minutes of speech
HINT = "Write a script, or let one surprise you; a tag goes in where the cursor stands."
ASKING = "ElevenLabs is speaking: this can take a minute…"
KEY_INFO = "Your key goes to ElevenLabs with each request, through this server, and is kept nowhere but in this page."
ACCENTS = {"en-us": "American", "en": "British", "en-gb-x-rp": "British (RP)", "en-gb-scotland": "Scottish"}
SEED_INFO = "Of pace and pitch: any number."
TIMELINE = Markup('<div class="ev-timeline"><p>{}</p>{}</div>')
LANES = Markup('<div class="ev-lanes"><ol style="--ev-across:{:.4f}">{}</ol><div aria-hidden="true">{}</div></div>')
# The primary button is the next step: Speak for a new script, then the one that sends the clip to Compare. This runs in
# the browser, as the script changes with every key.
SCRIPT_CHANGED_JS = '() => [{variant: "primary", __type__: "update"}, {variant: "secondary", __type__: "update"}]'
CLIP_CHANGED_JS = """() => [
  {variant: "secondary", __type__: "update"}, {variant: "primary", interactive: true, __type__: "update"}
]"""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s")

# A random script is one of the first followed by one of the second.
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
ENDINGS = (
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


def example_scripts() -> Iterator[str]:
    """All example scripts."""
    return map(" ".join, itertools.product(OPENINGS, ENDINGS))


def palette() -> Markup:
    """A button for each tag that the voice can speak, by category; `page.js` inserts its text."""
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
    """Number of words and tags, duration, and the times of the tags that sound."""
    length = audio.duration(spoken.waveform)
    told = f"{wording.counted(len(spoken.words), 'word')}, {wording.counted(len(spoken.tags), 'tag')}, {length:.1f} s"
    if not spoken.tags:
        return TIMELINE.format(f"{told}.", "")
    return TIMELINE.format(f"{told}: where each tag sounds, in seconds", _lanes(spoken.tags, length))


def _lanes(sounds: Sequence[Timed], length: float) -> Markup:
    """A lane for each tag name, on an axis of `length` seconds."""
    lanes: dict[str, list[Timed]] = {}
    for sound in sounds:
        lanes.setdefault(sound.text, []).append(sound)
    ticks = [(second, name) for second, name in Axis.fitting("seconds", (0, length)).ticks if second <= length]
    return LANES.format(
        ticks[1][0] / length,
        Markup("").join(_lane(name, lane, length) for name, lane in lanes.items()),
        Markup("").join(
            Markup('<span class="ev-tick-x" style="--ev-across:{:.4f}">{}</span>').format(second / length, name)
            for second, name in ticks
        ),
    )


def _lane(name: str, sounds: Sequence[Timed], length: float) -> Markup:
    """A tag with its times, and a bar for each; a tag that sounds late has its label on the left of the bar."""
    places = [f"--ev-from:{sound.start / length:.4f};--ev-to:{sound.end / length:.4f}" for sound in sounds]
    return Markup('<li class="ev-{}{}" style="{}"><span class="ev-tag">{}</span> <small>{}</small>{}</li>').format(
        tags.category(name),
        " ev-late" if sounds[0].start + sounds[0].end > length else "",
        places[0],
        name,
        ", ".join(f"{sound.start:.1f}–{sound.end:.1f}" for sound in sounds),
        Markup("").join(Markup('<i style="{}"></i>').format(place) for place in places),
    )


def checked_length(script: str) -> str:
    """The script itself. Raises SpeechError if it is too long."""
    if len(script) > MAX_CHARACTERS:
        raise SpeechError(f"The script has {len(script):,} characters; at most {MAX_CHARACTERS:,} are spoken at once.")
    return script


def synthesize(script: str, voice: str, seed: float) -> Speech:
    """Speak a script of bounded length. Raises SpeechError."""
    names = tags.names(checked_length(script))
    if names and not tags.plain(script) and not any(map(speech.spoken_as, names)):
        unknown = _listed(f"[{name}]" for name in names)
        raise SpeechError(
            f"There is nothing to speak: the voice has no sound for {unknown}. Write words, or a tag such as [laughs]."
        )
    return speech.speak(script, voice, abs(int(seed or 0)))  # the box may be empty


def speak_embedded(script: str, voice: str, seed: float) -> tuple:
    """For the Speak button: status, the clip, the timeline, and the script that was spoken."""
    try:
        spoken = synthesize(script, voice, seed)
    except EvoxtralError as error:
        return status_line.error(str(error)), gr.skip(), gr.skip(), gr.skip()
    told = "Spoken." if not spoken.skipped else f"Left out, no sound or no word to act on: {_listed(spoken.skipped)}."
    return status_line.status(told), playable(spoken), timeline(spoken), script


def speak_with_elevenlabs(script: str, key: str, voice: str, api: str = elevenlabs.API) -> Iterator[tuple]:
    """For the button of ElevenLabs; outputs as of `speak_embedded`. key: the visitor's own, never stored."""
    yield status_line.status(ASKING), gr.skip(), gr.skip(), gr.skip()
    try:
        recording = elevenlabs.speak(checked_length(script), key or "", voice or "", api)
        length = audio.duration(audio.load(recording))
    except EvoxtralError as error:
        yield status_line.error(str(error)), gr.skip(), gr.skip(), gr.skip()
        return
    told = TIMELINE.format(f"{length:.1f} s. Where each tag sounds is known for the embedded voice only.", "")
    with tempfile.TemporaryDirectory() as folder:  # Gradio takes its own copy while we wait at the yield
        clip = Path(folder) / "elevenlabs.mp3"
        clip.write_bytes(recording)
        _, markup = foreign_formats.without_markup(script)
        left = f" Left out, it reads no SSML: {_listed(markup)}." if markup else ""
        yield status_line.status(f"Spoken by ElevenLabs v3.{left}"), str(clip), told, script


def playable(spoken: Speech) -> tuple[int, np.ndarray]:
    """(rate in Hz, (T,) int16): Gradio would turn the volume of a float waveform up to the full."""
    return audio.SAMPLE_RATE, (spoken.waveform * 32767).astype(np.int16)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def random_script(script: str) -> tuple:
    """Another script, the previous one, and the button that brings that back."""
    return random.choice([other for other in example_scripts() if other != script]), *_keep_previous(script)


def _keep_previous(script: str) -> tuple:
    """The script that is being replaced, and the button that brings it back: typed text is not lost."""
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
    spoken = synthesize(script, voice, seed)
    return playable(spoken), list(spoken.skipped)


class SpeakTab:
    """Lays the tab out and connects it, also to the Compare tab that its clips are sent to."""

    def __init__(self, compare: CompareTab, tabs: gr.Tabs):
        with gr.Row(elem_classes="ev-speak"):
            with gr.Column(min_width=320):
                self._lay_out_script()
            with gr.Column(min_width=320):
                self.status = gr.HTML(status_line.status(HINT), elem_id="speak-status", apply_default_css=False)
                self.clip = gr.Audio(
                    label="What is spoken",
                    type="filepath",
                    interactive=False,
                    buttons=["download"],
                    elem_id="spoken",
                    waveform_options=gr.WaveformOptions(*theme.WAVEFORM),
                )
                self.timeline = gr.HTML(elem_id="timeline", apply_default_css=False)
                self.spoken = gr.State()  # the clip's script; the box may have changed since
                self.send = gr.Button(
                    "Transcribe it, with the script as the reference", elem_id="send", interactive=False
                )
        self._connect(compare, tabs)

    def _lay_out_script(self) -> None:
        self.script = gr.Textbox(
            next(example_scripts()),
            label="Script",
            lines=5,
            max_lines=8,
            max_length=MAX_CHARACTERS,
            elem_id="script",
        )
        gr.HTML(palette(), apply_default_css=False)
        with gr.Row():
            self.voice = gr.Dropdown(
                [(voice_name(voice), voice) for voice in (*natural_voices.installed(), *speech.VOICES)],
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
        self.another.click(random_script, self.script, replaced, **REDRAW_ONLY)
        self.back.click(lambda script, before: (before, *_keep_previous(script)), replaced[:2], replaced, **REDRAW_ONLY)
        self.speak.click(speak_embedded, spoken, heard, **REDRAW_ONLY)
        self.speak_there.click(
            speak_with_elevenlabs,
            [self.script, self.key, self.their_voice],
            heard,
            show_progress="hidden",
            api_visibility="private",
            concurrency_limit=8,  # these requests wait for a network, not for this machine
        )
        self.script.change(None, None, [self.speak, self.send], js=SCRIPT_CHANGED_JS, **REDRAW_ONLY)
        self.clip.change(None, None, [self.speak, self.send], js=CLIP_CHANGED_JS, **REDRAW_ONLY)
        sent = self.send.click(
            send_to_compare,
            [self.clip, self.spoken],
            [self.status, tabs, compare.clip, compare.reference],
            **REDRAW_ONLY,
        )
        compare.decode_after(sent.success)
        compare.columns.speak(load_script, self.script, [tabs, self.status, *replaced], **REDRAW_ONLY)
        script = text_input("Script", "[sighs] I told you. [whispers] It is a SECRET.")
        outputs = gr.Audio(label="Speech", visible=False), json_output(list[str], "Skipped tags")
        endpoint(speak, [script, self.voice, self.seed], *outputs)


def send_to_compare(clip: str, script: str) -> tuple:
    """Status, the open tab, and the Compare tab's clip and reference."""
    return status_line.status(HINT), gr.Tabs(selected="compare"), clip, script


def load_script(event: gr.EventData, script: str) -> tuple:
    """The open tab, status, a transcript as the new script, the previous script, and the button that brings it back."""
    text = truncated_script(event.text)
    told = HINT if text == event.text else f"The text is long: these are the first {len(text):,} of its characters."
    return gr.Tabs(selected="speak"), status_line.status(told), text, *_keep_previous(script)


def truncated_script(text: str) -> str:
    """As many whole sentences of a text as fit MAX_CHARACTERS; of a longer sentence, as many words."""
    if len(text) <= MAX_CHARACTERS:
        return text
    cut = text[: MAX_CHARACTERS + 1]
    *_, end = [0, *(match.start() for match in _SENTENCE_END.finditer(cut))]
    return cut[: end or max(cut.rfind(" "), 0) or MAX_CHARACTERS]


def voice_info() -> str:
    """How many voices there are, and how to get natural ones if there are none."""
    count, natural = len(speech.VOICES), len(natural_voices.installed())
    told = f"{count + natural} of them: type to find one."
    return told if natural else f"{told} For natural ones, see the README's “Voices”."


def voice_name(voice: str) -> str:
    """ "en-us+f3" → "American, woman 3"."""
    if natural_voices.is_natural(voice):
        return natural_voices.title(voice)
    language, variant = voice.split("+")
    sex, speakers = ("woman", speech.FEMALE) if variant in speech.FEMALE else ("man", speech.MALE)
    return f"{ACCENTS[language]}, {sex} {speakers.index(variant) + 1}"

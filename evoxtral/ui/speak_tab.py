"""The Speak tab: write a tagged script, hear it in the embedded voice, and send it on to be transcribed."""

import random
from collections.abc import Iterable

import gradio as gr
import numpy as np
from markupsafe import Markup

from evoxtral import audio, speech, tags
from evoxtral.errors import EvoxtralError, SpeechError
from evoxtral.speech import Speech
from evoxtral.ui import theme, view
from evoxtral.ui.compare import QUIETLY, CompareTab
from evoxtral.ui.endpoints import endpoint

MOST_CHARACTERS = 2_000  # of a script: about two minutes of speech
HINT = "Write a script, or take another one; a tag goes in where the cursor stands."
NOTHING_SPOKEN = "Nothing has been spoken yet: press Speak first."
ACCENTS = {
    "en-us": "American",
    "en": "British",
    "en-gb-x-rp": "Received Pronunciation",
    "en-gb-scotland": "Scottish",
}

SCRIPTS = (
    "[stammers] I see your point, but consider the garden. [clears throat] We need sixteen more plates on Friday.",
    "[calm] The little walrus closed its eyes [pause] and dreamed of the sea. [sighs]",
    "[whispers] I've been secretly watching that hospital drama without you. [laughs]",
    "[crying] Please, cried the snowman, let me go HOME! [pause] The king gave his last helmet to a poor nurse.",
    "[excited] I can't believe you remembered my favourite cake! [laughs] I laughed so hard I missed the last bus.",
    "[sad] The shop where I bought my first guitar is closed. [sighs] What a terrible way to end the year.",
    "[nervous] Please don't be angry, but I ruined the wheelbarrow. [laughs] I think I'm COMPLETELY in love with Ravi!",
    "[clears throat] Alright everyone, let's get started with the budget. [excited] It starts on Monday morning!",
    "[shouts] That is NOT how you hold a saucepan! [laughs] [whispers] The soup is cold.",
    "[frustrated] I've already restarted the telephone four times! [sighs] You want me to wait until Sunday?",
    "[angry] You forgot my birthday because of football? [sighs] I baked a cake for the school play.",
    "[gasps] Sorry to bother you, but could I borrow some sugar?",
)


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
            rows.append(Markup("<p>{}</p>").format(buttons))
    return Markup('<div class="ev-palette" role="group" aria-label="Insert a tag">{}</div>').format(
        Markup("").join(rows)
    )


def timeline(spoken: Speech) -> Markup:
    """Where each word and tag sounds: tags as marks over a line of words, on one axis of seconds."""
    length = audio.duration(spoken.wave)
    marks = Markup("").join(
        Markup('<span class="ev-tag ev-{}" style="--ev-from:{:.4f};--ev-to:{:.4f}" title="{}">{}</span>').format(
            tags.category(tag.text),
            tag.start / length,
            tag.end / length,
            f"{tag.text}: {tag.start:.1f}–{tag.end:.1f} s",
            tag.text,
        )
        for tag in spoken.tags
    )
    return Markup('<div class="ev-timeline"><p>{}</p><div>{}</div></div>').format(
        f"{view.counted(len(spoken.words), 'word')}, {view.counted(len(spoken.tags), 'tag')}, {length:.1f} s:"
        " where each tag sounds",
        marks,
    )


def say(script: str, voice: str, seed: float) -> Speech:
    """Speak a script of bounded length. Raises SpeechError."""
    if len(script) > MOST_CHARACTERS:
        raise SpeechError(f"The script has {len(script):,} characters; at most {MOST_CHARACTERS:,} are spoken at once.")
    return speech.speak(script, voice, int(seed))


def perform(script: str, voice: str, seed: float) -> tuple:
    """What the Speak button gives: status, the clip, the timeline, and the script that was spoken."""
    try:
        spoken = say(script, voice, seed)
    except EvoxtralError as error:
        return view.alarm(str(error)), gr.skip(), gr.skip(), gr.skip()
    told = "Spoken." if not spoken.skipped else f"Left out, the voice has no sound for it: {_listed(spoken.skipped)}."
    return view.status(told), playable(spoken), timeline(spoken), script


def playable(spoken: Speech) -> tuple[int, np.ndarray]:
    """(rate in Hz, (T,) int16): Gradio would turn the volume of a float wave up to the full."""
    return audio.SAMPLE_RATE, (spoken.wave * 32767).astype(np.int16)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def another(script: str) -> str:
    """A script that is not the one there."""
    return random.choice([other for other in SCRIPTS if other != script])


def speak(script: str, voice: str = speech.DEFAULT_VOICE, seed: float = 0) -> tuple[int, np.ndarray]:
    """Speak a tagged script in the embedded voice.

    Args:
        script: Words and tags, such as "[sighs] I told you. [whispers] It is a SECRET."
        voice: One of the voices that the page offers.
        seed: Another number is another speaker of the same voice.

    Returns:
        A recording at 16 kHz.
    """
    return playable(say(script, voice, seed))


class SpeakTab:
    """Lays the tab out and connects it, also to the Compare tab that its clips are sent to."""

    def __init__(self, compare: CompareTab, tabs: gr.Tabs):
        with gr.Row(elem_classes="ev-speak"):
            with gr.Column(min_width=320):
                self._lay_out_script()
            with gr.Column(min_width=320):
                self.status = gr.HTML(view.status(HINT), elem_id="speak-status", apply_default_css=False)
                self.clip = gr.Audio(
                    label="The embedded voice",
                    type="filepath",
                    interactive=False,
                    buttons=["download"],
                    elem_id="spoken",
                    waveform_options=gr.WaveformOptions(*theme.WAVEFORM),
                )
                self.timeline = gr.HTML(elem_id="timeline", apply_default_css=False)
                self.spoken = gr.State()  # the script of the clip; the one in the box may have changed since
                self.send = gr.Button("Transcribe it, with the script as the reference", elem_id="send")
        self._connect(compare, tabs)

    def _lay_out_script(self) -> None:
        self.script = gr.Textbox(
            SCRIPTS[0],
            label="Script",
            lines=5,
            max_lines=8,
            max_length=MOST_CHARACTERS,
            elem_id="script",
        )
        gr.HTML(palette(), apply_default_css=False)
        with gr.Row():
            self.voice = gr.Dropdown(
                [(voice_name(voice), voice) for voice in speech.VOICES],
                value=speech.DEFAULT_VOICE,
                label="Voice",
                scale=2,
            )
            self.seed = gr.Number(0, label="Speaker", precision=0, minimum=0, min_width=80)
        with gr.Row():
            self.another = gr.Button("Another script", elem_id="another")
            self.speak = gr.Button("Speak", variant="primary", elem_id="speak")

    def _connect(self, compare: CompareTab, tabs: gr.Tabs) -> None:
        spoken = [self.script, self.voice, self.seed]
        self.another.click(another, self.script, self.script, **QUIETLY)
        self.speak.click(perform, spoken, [self.status, self.clip, self.timeline, self.spoken], **QUIETLY)
        sent = self.send.click(
            hand_over, [self.clip, self.spoken], [self.status, tabs, compare.clip, compare.reference], **QUIETLY
        )
        compare.decode_after(sent.success)
        compare.columns.click(take_over, None, [tabs, self.script], **QUIETLY)
        endpoint(speak, spoken, gr.Audio(label="Speech", visible=False))


def hand_over(clip: str | None, script: str) -> tuple:
    """Status, the open tab, and the Compare tab's clip and reference."""
    if clip is None:
        raise gr.Error(NOTHING_SPOKEN, print_exception=False)
    return view.status(HINT), gr.Tabs(selected="compare"), clip, script


def take_over(click: gr.EventData) -> tuple:
    """The open tab and the script, from a transcript that is to be spoken."""
    return gr.Tabs(selected="speak"), click.text[:MOST_CHARACTERS]


def voice_name(voice: str) -> str:
    """ "en-us+f3" → "American · f3"."""
    language, variant = voice.split("+")
    return f"{ACCENTS[language]} · {variant}"

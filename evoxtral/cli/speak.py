"""The command `speak`: tagged text to a recording."""

import argparse
import logging
import sys
import textwrap
from pathlib import Path

from evoxtral.cli.arguments import OK, UsageError

log = logging.getLogger(__name__)


def add_speak(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("speak", help="tagged text to a WAV file")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter  # does not break the names of voices
    parser.late_epilog = _voices
    parser.add_argument("text", metavar="TEXT", help='"[nervous] So… I was thinking. [sighs]"')
    parser.add_argument("-o", "--output", required=True, metavar="FILE.wav", help="16 kHz mono, 16 bit")
    parser.add_argument("--voice", help="one of the voices below")
    parser.add_argument("--seed", type=int, default=0, help="another speaker of the same voice (default: 0)")
    parser.set_defaults(command=_speak)


def _voices() -> str:
    from evoxtral.speech import VOICES, kokoro, natural_voices

    lines = [textwrap.fill("voices: " + ", ".join((*natural_voices.installed(), *VOICES)), break_on_hyphens=False)]
    lines += [complaint for complaint in (kokoro.missing(),) if complaint]
    return "\n".join(lines)


def _speak(args: argparse.Namespace) -> int:
    from evoxtral import audio
    from evoxtral.speech import DEFAULT_VOICE, speak

    output = Path(args.output)
    if output.suffix.lower() != ".wav":
        raise UsageError(f"{output} is not a .wav file name; speech is written as WAV.")
    speech = speak(args.text, voice=args.voice or DEFAULT_VOICE, seed=args.seed)
    if speech.skipped:
        print(f"Skipped, without a sound or a word to act on: {' '.join(speech.skipped)}", file=sys.stderr)
    audio.save(output, speech.waveform)
    log.info("%s: %.1f s", output, audio.duration(speech.waveform))
    return OK

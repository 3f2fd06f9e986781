"""Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html), and text that only grows."""

import json
import logging
import math
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from fastapi.responses import StreamingResponse

from evoxtral.errors import EvoxtralError
from evoxtral.inference.sampling import LOOP_UNIT
from evoxtral.serve.refusals import Unexpected
from evoxtral.transcript import Token, Transcript

SIGN_OF_LIFE = ": still at work\n\n"  # a comment: no client sees it, no proxy ends the connection
_LAST_WORD = re.compile(r"\s*\S*$")
MIN_PROBABILITY = 1e-30  # of what rounds to 0: JSON has no infinity

log = logging.getLogger(__name__)


def event(data: dict, name: str | None = None) -> str:
    """One event. It ends with a blank line: clients drop what is not followed by one."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n"


async def started(
    steps: AsyncIterator[dict[str, Transcript] | None],
    events: Callable[[dict[str, Transcript]], Sequence[str]],
    failure: Callable[[EvoxtralError], str],
) -> StreamingResponse | None:
    """A stream whose first step is there: until then every mistake still has a status of its own. None if the client
    left.

    events: what a step is told in.  failure: the last event, where decoding fails in the middle.
    """
    first = None
    async for first in steps:
        if first is not None:
            break
    if first is None:
        return None

    async def body() -> AsyncIterator[str]:
        async with aclosing(steps):
            for text in events(first):
                yield text
            try:
                async for step in steps:
                    for text in (SIGN_OF_LIFE,) if step is None else events(step):
                        yield text
            except EvoxtralError as error:
                yield failure(error)
            except Exception:  # whatever it is: a stream that breaks off looks like one that has ended
                log.exception("a stream failed")
                yield failure(Unexpected())

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # nginx holds events back unless told not to
    return StreamingResponse(body(), media_type="text/event-stream", headers=headers)


class Growth:
    """What can be told of a transcript while it grows, so that all that was told stays true.

    Segments are decoded side by side and told one after the other. Held back until it is sure: the last word, a tag
    that is not closed, and what only repeats what stands before it, which the engine may cut off as a loop.
    """

    def __init__(self, shown: Callable[[Transcript], Transcript]):
        """shown: what of a transcript is written, such as `Transcript.words_alone`."""
        self._shown = shown
        self.text = ""

    def add(self, transcript: Transcript) -> tuple[str, Sequence[Token]]:
        """What is new, and the tokens that end in it; joined, all that is new is the text of the last transcript."""
        settled = self._shown(_settled(transcript))
        text = settled.text
        if not transcript.done:
            if text.rfind("[") > text.rfind("]"):
                text = text[: text.rfind("[")]
            text = text[: _LAST_WORD.search(text).start()]
        if not text.startswith(self.text):
            return "", ()
        told, self.text = len(self.text), text
        _, ends, _ = settled.placed_tokens()
        tokens = (token for cue in settled.spoken_cues() for token in cue.tokens)
        return text[told:], [token for token, end in zip(tokens, ends, strict=True) if told < end <= len(text)]


def _settled(transcript: Transcript) -> Transcript:
    """The segments that have ended, and what is sure of the first that has not."""
    cues = []
    for cue in transcript.cues:
        sure = len(cue.tokens) if cue.done else len(cue.tokens) - _repeating([token.text for token in cue.tokens])
        cues.append(replace(cue, tokens=cue.tokens[:sure]))
        if not cue.done:
            break
    return replace(transcript, cues=tuple(cues))


def _repeating(pieces: Sequence[str]) -> int:
    """How many pieces at the end only repeat those before them; see `sampling.repeated_tail`, which may cut these."""
    longest = 0
    for unit in range(1, min(LOOP_UNIT, len(pieces) - 1) + 1):
        run = 0
        while run < len(pieces) - unit and pieces[-1 - run] == pieces[-1 - run - unit]:
            run += 1
        longest = max(longest, run)
    return longest


def logprobs(tokens: Sequence[Token]) -> list[dict]:
    """OpenAI's: the natural logarithm of the probability of each token that was decoded."""
    return [
        {
            "token": token.text,
            "logprob": math.log(max(token.probability, MIN_PROBABILITY)),
            "bytes": list(token.text.encode()),
        }
        for token in tokens
        if token.probability is not None
    ]

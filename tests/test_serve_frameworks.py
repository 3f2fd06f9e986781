"""OpenAI's route, asked by frameworks that people have; each runs where it is installed. Too heavy for `dev`."""

import asyncio
import importlib.metadata

import openai
import pytest
from conftest import spoken
from served import served

from evoxtral import audio
from evoxtral.serve.api import create_app

TRIED = {"litellm": "1.110.2", "langchain-community": "0.4.2", "pipecat-ai": "1.14.0"}  # November 2026
CLIP = audio.wav_bytes(spoken(7.0))


def framework(name: str, package: str):
    """A module; the test is skipped where its package is not installed."""
    module = pytest.importorskip(name, reason=f"for this test: pip install {package}=={TRIED[package]}")
    print(package, importlib.metadata.version(package), "tried with", TRIED[package])  # shown where a test fails
    return module


@pytest.fixture(scope="module")
def url(engine):
    with served(create_app(engine)) as url:
        yield f"{url}/v1"


@pytest.fixture
def asked(monkeypatch, url):
    """Arguments of litellm; it asks the network for prices unless it is told not to."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    return {"model": "openai/evoxtral-rl", "api_base": url, "api_key": "none", "file": ("a.wav", CLIP)}


def test_litellm_has_text_words_subtitles_and_streams(asked):
    litellm = framework("litellm", "litellm")
    assert litellm.transcription(**asked).text
    words = litellm.transcription(response_format="verbose_json", timestamp_granularities=["word"], **asked).words
    assert words and words[0]["start"] < words[0]["end"]
    assert "-->" in asyncio.run(litellm.atranscription(response_format="srt", **asked)).text
    *deltas, done = litellm.transcription(stream=True, **asked)
    assert "".join(event.delta for event in deltas) == done.text != ""
    with pytest.raises(openai.BadRequestError, match="takes no prompt"):
        litellm.transcription(prompt="Names: Ann", **asked)


def test_langchain_parses_a_recording(url, tmp_path):
    parsers = framework("langchain_community.document_loaders.parsers.audio", "langchain-community")
    from langchain_core.document_loaders import Blob

    pytest.importorskip("pydub", reason="for this test: pip install pydub; and ffmpeg")
    (tmp_path / "clip.wav").write_bytes(CLIP)
    parser = parsers.OpenAIWhisperParser(api_key="none", base_url=url, model="evoxtral-rl")
    (document,) = parser.lazy_parse(Blob.from_path(tmp_path / "clip.wav"))
    assert document.page_content


def test_pipecat_gets_a_frame_with_the_text(url):
    stt = framework("pipecat.services.openai.stt", "pipecat-ai")

    async def ask() -> list:
        settings = stt.OpenAISTTService.Settings(model="evoxtral-rl")
        service = stt.OpenAISTTService(api_key="none", base_url=url, settings=settings)
        return [await service._transcribe(CLIP), *[frame async for frame in service.run_stt(CLIP)]]

    answer, *frames = asyncio.run(ask())
    assert answer.text
    assert any(getattr(frame, "text", "") == answer.text.strip() for frame in frames), frames

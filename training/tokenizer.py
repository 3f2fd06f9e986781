"""A processor for the scale model, from nothing but text: BPE in Tekken's own file format, Voxtral's special ids.

The same classes as the published model load it (MistralCommonBackend, WhisperFeatureExtractor, VoxtralProcessor), so
prompts are built by the same code and only the vocabulary is smaller.
"""

import base64
import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from mistral_common.tokens.tokenizers.base import SpecialTokens

from evoxtral.audio import SAMPLE_RATE

N_MELS, WINDOW = 128, 400  # mel bands; samples at 16 kHz under one Fourier transform
FRAME_RATE = 12.5  # audio tokens/s
N_SPECIAL = 64
# Voxtral's ids, so that a prompt of the scale model reads like one of the published model.
SPECIAL_IDS = {
    0: SpecialTokens.unk, 1: SpecialTokens.bos, 2: SpecialTokens.eos, 3: SpecialTokens.begin_inst,
    4: SpecialTokens.end_inst, 5: SpecialTokens.begin_tools, 6: SpecialTokens.end_tools,
    7: SpecialTokens.begin_tool_results, 8: SpecialTokens.end_tool_results, 9: SpecialTokens.tool_calls,
    10: SpecialTokens.img, 11: SpecialTokens.pad, 12: SpecialTokens.img_break, 13: SpecialTokens.img_end,
    14: SpecialTokens.prefix, 15: SpecialTokens.middle, 16: SpecialTokens.suffix, 17: SpecialTokens.begin_system,
    18: SpecialTokens.end_system, 19: SpecialTokens.begin_tool_content, 24: SpecialTokens.audio,
    25: SpecialTokens.begin_audio, 32: SpecialTokens.args, 33: SpecialTokens.call_id, 34: SpecialTokens.transcribe,
}  # fmt: skip
BOS, EOS, PAD, AUDIO = 1, 2, 11, 24


def tekken_pattern() -> str:
    """The split pattern of the Tekken vocabulary that mistral_common ships."""
    data = files("mistral_common").joinpath("data/tekken_240911.json").read_text(encoding="utf-8")
    return json.loads(data)["config"]["pattern"]


def train_merges(texts: Iterable[str], count: int) -> list[bytes]:
    """`count` byte-pair merges learned on texts, each as the bytes it stands for, in the order they were learned."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(tekken_pattern()), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256 + count, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    byte_of = _byte_of_character()
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [bytes(byte_of[c] for c in token) for token, _ in ordered if len(token) > 1]


def _byte_of_character() -> dict[str, int]:
    """GPT-2's reversible map: printable bytes stand for themselves, the others for characters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + k): b for k, b in enumerate(others)}


def write_processor(folder: Path, merges: list[bytes], chunk_seconds: float, hop: int = 160) -> None:
    """Write tekken.json and the processor's files to `folder`, which must already hold the model's config.json.

    chunk_seconds: the model's window. hop: samples per mel frame. (Without config.json beside it AutoProcessor picks
    another tokenizer class.)
    """
    from transformers import VoxtralProcessor, WhisperFeatureExtractor
    from transformers.tokenization_mistral_common import MistralCommonBackend

    pieces = [bytes([b]) for b in range(256)] + merges
    vocab = [
        {"rank": i, "token_bytes": base64.b64encode(p).decode(), "token_str": p.decode("utf-8", "replace")}
        for i, p in enumerate(pieces)
    ]
    special = [
        {
            "rank": i,
            "token_str": SPECIAL_IDS[i].value if i in SPECIAL_IDS else f"<SPECIAL_{i}>",
            "is_control": True,
        }
        for i in range(N_SPECIAL)
    ]
    tekken = {
        "config": {
            "pattern": tekken_pattern(),
            "num_vocab_tokens": len(vocab),
            "default_vocab_size": len(vocab) + N_SPECIAL,
            "default_num_special_tokens": N_SPECIAL,
            "version": "v7",
        },
        "vocab": vocab,
        "special_tokens": special,
        "audio": {
            "sampling_rate": SAMPLE_RATE,
            "frame_rate": FRAME_RATE,
            "audio_encoding_config": {"num_mel_bins": N_MELS, "hop_length": hop, "window_size": WINDOW},
            "chunk_length_s": chunk_seconds,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tekken.json").write_text(json.dumps(tekken, ensure_ascii=False), encoding="utf-8")
    extractor = WhisperFeatureExtractor(feature_size=N_MELS, chunk_length=int(chunk_seconds), hop_length=hop)
    VoxtralProcessor(extractor, MistralCommonBackend.from_pretrained(folder)).save_pretrained(folder)

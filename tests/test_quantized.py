"""Weights in 8 and 4 bits: what they keep, their products, their file, and which precision is chosen."""

import json
import math
import shutil
import time
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import tone
from safetensors.torch import load_file, save_file
from torch import nn

from evoxtral import cli
from evoxtral.errors import CheckpointError
from evoxtral.inference.engine import Engine
from evoxtral.inference.sampling import Decoding
from evoxtral.model import (
    backends,
    checkpoints,
    llvm_code,
    lora,
    memory,
    panels,
    precision,
    quantized,
    quantized_files,
)
from evoxtral.model.linear import Beside, Mix, MixedLinear
from evoxtral.model.quantized import Int4, Int8, StoredLinear

CPU = torch.device("cpu")
LOUD = 1e3  # how much larger one row is than the next


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    """(128, 192), outputs of very different sizes."""
    sizes = torch.logspace(-2, 1, 128)[:, None]
    return torch.randn(128, 192, generator=torch.Generator().manual_seed(0)) * sizes


@pytest.fixture(scope="module")
def int8_folder(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("quantized") / "model"
    assert quantized_files.write(checkpoint, "int8", folder)
    return folder


def relative(y: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """The error of each row as a share of its size."""
    return (y.float() - expected).norm(dim=-1) / expected.norm(dim=-1)


def test_8_bits_are_rounded_to_the_nearest_of_each_output(weight):
    found = Int8.of(weight)
    assert found.q.abs().amax(dim=1).eq(127).all()
    assert (found.dequantized() - weight).abs().le(found.scale[:, None] * 0.501).all()


def test_4_bits_have_a_step_and_a_zero_for_each_group_that_8_bits_can_hold(weight):
    found = Int4.of(weight)
    assert found.codes().shape == (128, 192)
    assert relative(found.dequantized(), weight).mean() < 0.08
    a, b = (panels.to_groups(of).int().repeat_interleave(panels.GROUP, dim=1) for of in (found.a, found.b))
    as_int8 = (found.codes().int() * a * 16 + b * 256 + 128 >> 8) - 128
    assert as_int8.abs().amax() <= 127
    assert (as_int8 * found.scale[:, None] - found.dequantized()).abs().le(found.scale[:, None] * 0.501).all()


def test_a_group_far_from_zero_keeps_its_differences():
    """Its 16 steps lie between its own smallest and largest weight."""
    weight = 1 + 0.01 * torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    weight[:, 0] = -1
    group = torch.cat([weight, 1 + 0.01 * weight.roll(1, 0)], dim=1)
    assert (Int4.of(group).dequantized() - group)[:, 32:].abs().max() < 0.005


def test_panels_give_back_what_is_put_in(weight):
    found = Int8.of(weight)
    assert torch.equal(found.in_panels().plain().q, found.q)
    codes = torch.randint(0, 16, (128, 192), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(panels.to_codes(panels.of_codes(codes)), codes)
    assert torch.equal(panels.to_groups(panels.of_groups(codes)), codes)


@cache
def compiled(isa: llvm_code.Instructions) -> panels.Functions:
    """The functions of `panels` for instructions that this CPU may have beside its own."""
    level = torch.backends.cpu.get_cpu_capability()
    wanted = {"AVX512_VNNI": ("AVX512", "avx512_vnni", "+avx512vl,+avx512vnni"), "AVX2": ("", "avx2", "")}
    cpu = torch.cpu.get_capabilities()
    name = "AVX2" if isa is llvm_code.AVX2 else "AVX512_VNNI"
    least, flag, features = wanted[name]
    if not cpu.get(flag) or not level.startswith(least) or not panels.functions():
        pytest.skip(f"no {flag} here")
    return panels.Functions(isa, "x86-64-v4" if name == "AVX512_VNNI" else "x86-64-v3", features)


@pytest.mark.parametrize("isa", [llvm_code.AVX512_VNNI, llvm_code.AVX_VNNI, llvm_code.AVX2])
def test_compiled_products_are_those_of_float32(weight, isa):
    """Of 8 and 4 bits, for every number of rows that ends a tile, of both kinds of activations, by two threads."""
    ours, int8, int4 = compiled(isa), Int8.of(weight), Int4.of(weight)
    most = 0.02 if isa.dot else 0.04  # activations have 8 bits, or 7
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for rows in (1, 2, 3, 4, 5, panels.FEW, panels.FEW + 2):
            x = torch.randn(rows, 192, generator=torch.Generator().manual_seed(rows))
            x[0] *= LOUD
            for dtype in (torch.float32, torch.bfloat16):
                inputs = x.to(dtype)
                for y, read in (
                    (ours.product(inputs, int8.in_panels().q, int8.scale), int8),
                    (ours.product(inputs, int4.q, int4.scale, int4.a, int4.b), int4),
                ):
                    assert y.dtype is dtype
                    assert relative(y, inputs.float() @ read.dequantized().T).max() < most
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("isa", [llvm_code.AVX512_VNNI, llvm_code.AVX2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_norm_is_that_of_float32(isa, dtype):
    generator = torch.Generator().manual_seed(5)
    x, norm = (torch.randn(*shape, 192, generator=generator).to(dtype) for shape in ((2, 3), ()))
    x[0, 0] = 0
    expected = torch.nn.functional.rms_norm(x.float(), (192,), norm.float(), 1e-5)
    torch.testing.assert_close(compiled(isa).norm(x, norm, 1e-5).float(), expected, rtol=0.004, atol=1e-6)


def test_rows_of_zeros_stay_zeros():
    nothing = torch.zeros(64, 64)
    assert not Int8.of(nothing).dequantized().any()
    assert not Int4.of(nothing).dequantized().any()


@pytest.mark.parametrize("name", list(quantized._candidates()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_product_of_8_bits_has_a_scale_for_each_row(weight, name, dtype):
    found = Int8.of(weight)
    x = torch.randn(2, 3, 192, generator=torch.Generator().manual_seed(1))
    x[:, 1] *= LOUD
    x[:, 2] = 0
    x = x.to(dtype)
    y = quantized._PRODUCTS[name](found)(x)
    expected = x.float() @ found.dequantized().T
    assert y.shape == (2, 3, 128)
    assert y.dtype is dtype
    assert relative(y[:, :2], expected[:, :2]).max() < 0.03  # with one scale for all, the quiet row would be lost
    assert not y[:, 2].any()


@pytest.mark.parametrize("rows", [1, panels.FEW, panels.FEW + 1])
@pytest.mark.parametrize("here", [True, False])
def test_few_rows_and_many_are_multiplied_by_the_same_4_bits(weight, rows, here, monkeypatch):
    if not here:  # as on a CPU that `panels` has no functions for
        monkeypatch.setattr(panels, "functions", lambda: None)
    found = Int4.of(weight)
    x = torch.randn(1, rows, 192, generator=torch.Generator().manual_seed(1))
    y = found.product(few=True)(x)
    assert y.shape == (1, rows, 128)
    assert relative(y, x @ found.dequantized().T).max() < 0.03


def test_fbgemm_is_asked_for_7_bits_where_its_sums_would_saturate(weight, monkeypatch):
    monkeypatch.setattr(quantized, "_fbgemm_saturates", lambda: True)
    if "FBGEMM" not in quantized._candidates():
        pytest.skip("no FBGEMM here")
    x = torch.randn(4, 192, generator=torch.Generator().manual_seed(1))
    y = quantized._fbgemm(Int8.of(weight))(x)
    assert relative(y, x @ weight.T).max() < 0.03


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_adapters_stay_beside_quantised_layers(weight, dtype):
    """Layers of one product, an adapter on one of them, a batch of two variants; against float32."""
    generator = torch.Generator().manual_seed(2)
    layers = {"a": nn.Linear(192, 128), "b": nn.Linear(192, 64, bias=False)}
    with torch.no_grad():
        layers["a"].weight.copy_(weight)
        layers["b"].weight.copy_(weight[:64])

    def adapter() -> lora.Adapter:
        pair = torch.randn(4, 192, generator=generator.manual_seed(3)), torch.randn(128, 4, generator=generator)
        return lora.Adapter("sft", {"a": pair})

    kept = {
        path: StoredLinear(layer, lambda layer=layer: Int8.of(layer.weight), dtype, few=True)
        for path, layer in layers.items()
    }
    mix = Mix([adapter()])
    ours = MixedLinear(kept, [adapter()], mix, CPU).prepack()
    plain = MixedLinear(layers, [adapter()], mix, CPU)
    x = torch.randn(2, 5, 192, generator=generator)
    with mix.using(("base", "sft")), torch.inference_mode():
        y, expected = ours(x.to(torch.bfloat16 if dtype is torch.bfloat16 else torch.float32)), plain(x)
    assert y.shape == (2, 5, 192)
    assert relative(y, expected).max() < 0.03
    assert (expected[0] - expected[1]).abs().max() > 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("compiled_here", [True, False])
def test_adapters_of_blocks_of_any_size_are_those_of_float32(dtype, compiled_here, monkeypatch):
    """Few rows and many, two adapters of which one changes one layer, by two threads; other rows stay as they are."""
    if not compiled_here:
        monkeypatch.setattr(panels, "functions", lambda: None)
    generator = torch.Generator().manual_seed(4)

    def pair(outs: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple((torch.randn(shape, generator=generator) / 8).to(dtype) for shape in ((rank, 192), (outs, rank)))

    layers = {"a": nn.Linear(192, 128, bias=False), "b": nn.Linear(192, 64, bias=False)}
    adapters = lora.Adapter("sft", {"a": pair(128, 40), "b": pair(64, 40)}), lora.Adapter("rl", {"b": pair(64, 8)})
    matrices = {adapter.name: dict(adapter.weights) for adapter in adapters}
    beside = Beside(layers, adapters, dtype)
    assert not any(adapter.weights for adapter in adapters)  # they are not in memory twice
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for sizes in ((1, 1, 1), (2, 3, 1), (1, 40, 2)):
            x = torch.randn(sum(sizes) + 1, 192, generator=generator).to(backends.activations(dtype, CPU))
            y = torch.randn(len(x), 192, generator=generator).to(x.dtype)
            expected, first = y.float(), 0
            for name, rows in zip(("base", "sft", "rl"), sizes, strict=True):
                for path, (a, b) in matrices.get(name, {}).items():
                    columns = slice(0, 128) if path == "a" else slice(128, 192)
                    expected[first : first + rows, columns] += (
                        x[first : first + rows].float() @ (b.float() @ a.float()).T
                    )
                first += rows
            untouched = y.clone()
            with torch.inference_mode():
                beside.add(x, y, ("base", "sft", "rl"), sizes)
            assert relative(y, expected).max() < (0.01 if x.dtype is torch.bfloat16 else 1e-5)
            for rows in (slice(0, sizes[0]), slice(-1, None)):  # of the base, and of nobody
                assert torch.equal(y[rows], untouched[rows])
    finally:
        torch.set_num_threads(threads)


def test_a_quantised_folder_is_a_model_of_its_own(checkpoint, int8_folder):
    """Its layers are those that the source's weights give when they are quantised while loading."""
    found = checkpoints.resolve(str(int8_folder))
    assert found.variants == ("base", "sft", "rl")
    from_file, from_source = (
        quantized_files.load(Path(model.base), "int8", torch.float32) for model in (found, checkpoint)
    )
    sides = [dict(model.named_modules()) for model in (from_file, from_source)]
    layers = [name for name, module in sides[0].items() if isinstance(module, StoredLinear)]
    assert {"lm_head", "model.multi_modal_projector.linear_1", "model.audio_tower.layers.1.fc2"} < {*layers}
    for name in layers:
        one, other = (side[name].read() for side in sides)
        assert torch.equal(one.q, other.q)
        assert torch.equal(one.scale, other.scale)
    whole = checkpoints.load_base(Path(checkpoint.base), torch.float32)
    tokens = torch.tensor([3, 300])
    embedded = from_file.get_submodule(quantized_files.EMBEDDINGS)(tokens)
    assert relative(embedded, whole.get_input_embeddings()(tokens)).max() < 0.02
    for name in ("model.audio_tower.conv1.weight", "model.language_model.norm.weight"):
        torch.testing.assert_close(from_file.get_parameter(name), whole.get_parameter(name))


def test_an_engine_runs_all_variants_of_a_quantised_folder(int8_folder):
    engine = Engine(checkpoints.resolve(str(int8_folder)), device="cpu")
    assert engine.precision.weights == "int8"
    transcripts = engine.batch([tone(2.0)], decoding=Decoding(max_tokens=4))[0]
    assert set(transcripts) == {"base", "sft", "rl"}
    for (transcript,) in transcripts.values():
        assert all(0 < token.probability <= 1 for token in transcript.cues[0].tokens)


def test_4_bits_of_the_shipped_model(tmp_path):
    """The MLPs of its text layers in 4 bits but for the first and the last, the rest in 8."""
    source = checkpoints.resolve("tiny", {})
    assert quantized_files.write(source, "int4", tmp_path / "small")
    file = quantized_files.file_of(tmp_path / "small" / "base")
    tensors = load_file(file)
    path = f"{quantized_files.TEXT}.layers.1.mlp.down_proj"
    assert tensors[f"{path}.weight_packed"].shape == (4, 88, 64, 4)
    for other in ("layers.0.mlp.down_proj", "layers.3.mlp.up_proj", "layers.1.self_attn.v_proj"):
        assert f"{quantized_files.TEXT}.{other}.weight" in tensors
    assert tensors["model.audio_tower.layers.0.fc1.weight"].shape == (8, 64, 64, 4)
    assert file.stat().st_size < 0.55 * sum(f.stat().st_size for f in checkpoints.weight_files(Path(source.base)))
    model = quantized_files.load(file.parent, "int4", torch.float32)
    whole = checkpoints.load_base(Path(source.base), torch.float32)
    read = model.get_submodule(path).read().dequantized()
    assert relative(read, whole.get_parameter(f"{path}.weight").detach()).mean() < 0.12


def test_layers_that_are_kept_stay_in_the_source_s_precision(checkpoint, tmp_path):
    quantized_files.write(checkpoint, "int8", tmp_path / "model", kept=("mlp.down_proj",))
    file = quantized_files.file_of(tmp_path / "model" / "base")
    assert quantized_files.Header.read(file).kept == ("mlp.down_proj",)
    model = quantized_files.load(file.parent, "int8", torch.float32)
    down = model.get_submodule(f"{quantized_files.TEXT}.layers.0.mlp.down_proj")
    assert not isinstance(down, StoredLinear)
    whole = checkpoints.load_base(Path(checkpoint.base), torch.float32)
    torch.testing.assert_close(
        down.weight, whole.get_submodule(f"{quantized_files.TEXT}.layers.0.mlp.down_proj").weight
    )


def test_quantize_writes_once_and_says_what_is_wrong(checkpoint, int8_folder, tmp_path, capsys, caplog):
    asked = ["quantize", checkpoint.base, "-o"]
    assert cli.main([*asked, str(tmp_path / "out")]) == 0
    assert cli.main([*asked, str(tmp_path / "out")]) == 0
    assert "there already" in caplog.messages[-1]
    other = tmp_path / "other"
    shutil.copytree(checkpoint.base, other)
    weights = load_file(other / "model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] + 1
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    for arguments, sentence in (
        (["quantize", str(other), "-o", str(tmp_path / "out")], "holds something else: name a new folder."),
        (["quantize", str(int8_folder), "-o", str(tmp_path / "new")], "is quantised already"),
        ([*asked, str(tmp_path / "new"), "--weights", "int4"], "a shape that 4 bits cannot have ("),
        (["merge", "--model", str(int8_folder), "-o", str(tmp_path / "new")], "holds quantised weights alone"),
        (["transcribe", "a.wav", "--model", str(int8_folder), "--weights", "bf16"], "holds its weights in int8 alone"),
    ):
        assert cli.main(arguments) == 2
        assert sentence in capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 9}, "is of version 9 of this format"),
        ({"weights": "int3"}, "is of version 2 of this format"),
        ({"version": 1}, "is of version 1 of this format and 2 is needed: write it again"),
        ({}, "is of version None of this format"),
    ],
)
def test_a_file_of_another_format_is_refused(int8_folder, tmp_path, change, sentence):
    folder = tmp_path / "base"
    shutil.copytree(int8_folder / "base", folder)
    file = quantized_files.file_of(folder)
    header = {"version": 2, "weights": "int8", "kept": [], "in_8_bits": [], "source": {}, **change} if change else {}
    save_file(load_file(file), file, {"evoxtral": json.dumps(header)})
    with pytest.raises(CheckpointError, match=sentence):
        quantized_files.load(folder, "int8", torch.float32)


def test_a_file_that_lacks_a_tensor_is_named(int8_folder, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(int8_folder / "base", folder)
    file = quantized_files.file_of(folder)
    header = quantized_files.Header.read(file).written()
    save_file({k: v for k, v in load_file(file).items() if not k.startswith("lm_head")}, file, header)
    with pytest.raises(CheckpointError, match=r"do not fit its config.json: lm_head.weight"):
        quantized_files.load(folder, "int8", torch.float32)


@pytest.mark.parametrize(
    ("free", "gain", "weights", "reason"),
    [
        (math.inf, 1.5, "int8", "1.5 times as fast here as bf16"),
        (13e9, 1.5, "int8", "1.5 times as fast here as bf16"),
        (13e9, 0.8, "bf16", "8 bits take 1.2 times as long here"),
        (9e9, 0.8, "int8", "9.0 GB of memory are free, and 16 bits need 12.3"),
        (5.5e9, 1.5, "int4", "5.5 GB of memory are free, and 8 bits need 6.3"),
    ],
)
def test_a_large_model_takes_the_fastest_that_fits_and_says_why(tmp_path, monkeypatch, free, gain, weights, reason):
    """The published model's 9.4 GB of files, of which nothing is read; free memory and durations are given."""
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(9_400_000_000)
    monkeypatch.setattr(precision, "free_bytes", lambda: free)
    monkeypatch.setattr(precision, "default_dtype", lambda size: torch.bfloat16)
    monkeypatch.setattr(precision, "product_duration", lambda dtype: gain)
    monkeypatch.setattr(precision, "quantized_duration", lambda dtype: 1.0)
    found = precision.choose("auto", tmp_path, CPU)
    assert (found.weights, found.reason, found.dtype) == (weights, reason, torch.bfloat16)


def test_a_large_model_that_fits_in_no_precision_is_refused_with_what_to_do():
    def unexpected(dtype):
        raise AssertionError("what does not fit is not measured")

    with pytest.raises(CheckpointError, match="3.0 GB of memory are free here and this model needs 5.3 even in 4 bits"):
        precision.for_a_large_one(9.4e9, 3e9, torch.bfloat16, unexpected, unexpected)
    assert precision.for_a_large_one(9.4e9, 5.4e9, torch.bfloat16, unexpected, unexpected).weights == "int4"


def test_a_small_model_is_not_refused_for_its_memory(checkpoint, monkeypatch):
    monkeypatch.setattr(precision, "free_bytes", lambda: 0.0)
    assert precision.choose("auto", Path(checkpoint.base), CPU).reason == "a small model"


def test_what_is_asked_for_is_taken(checkpoint, monkeypatch):
    folder = Path(checkpoint.base)
    assert precision.choose("auto", folder, CPU).weights == "fp32"
    assert precision.choose("fp16", folder, CPU).dtype is torch.float16
    assert precision.choose("int8", folder, CPU).quantized
    with pytest.raises(CheckpointError, match="int8 runs on a CPU"):
        precision.choose("int8", folder, torch.device("cuda"))
    monkeypatch.setenv("EVOXTRAL_WEIGHTS", "int8")
    assert checkpoints.resolve("tiny").weights == "int8"
    assert checkpoints.resolve("tiny", weights="bf16").weights == "bf16"
    monkeypatch.setenv("EVOXTRAL_WEIGHTS", "int2")
    with pytest.raises(CheckpointError, match="EVOXTRAL_WEIGHTS is 'int2': use one of auto, "):
        checkpoints.resolve("tiny")


def test_free_memory_is_known_or_endless():
    assert memory.free_bytes() > 0


def test_what_a_call_takes_is_seconds_by_the_clock():
    """In processor time, what one thread computes while another waits would look faster than what two share."""
    assert backends.shortest_duration(lambda: time.sleep(0.01)) >= 0.01

"""The products of quantised weights that PyTorch has on a CPU, beside those of today, at shapes of the published model.

    python benchmarks/products.py                 # one thread, some minutes, up to 2 GB
    python benchmarks/products.py --rows 3 384    # fewer
    python benchmarks/products.py --only panels "FBGEMM int8, a scale"   # operators whose names begin so; a minute
    python benchmarks/products.py --avx2          # as on a CPU that has no more than AVX2

Every operator multiplies the same activations by the same weights, in turns, each time by another copy of them: what a
cache of the processor holds from the call before would not be there in a model. Prints the median milliseconds and the
error against float32 as a share of the output's size, and stores both in benchmarks/products.json, per processor.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import instructions

LIMITED = instructions.limit(sys.argv)

import torch  # noqa: E402
from torch.nn.functional import linear  # noqa: E402

from benchmarks.precision import processor  # noqa: E402
from evoxtral.model import panels, quantized  # noqa: E402
from evoxtral.model.backends import onednn_linear  # noqa: E402
from evoxtral.model.quantized import Int4, Int8, Quantized  # noqa: E402

RESULTS = Path(__file__).with_suffix(".json")
SHAPES = {"gate and up": (3072, 8192), "down": (8192, 3072), "fc1 of the encoder": (1280, 5120)}  # inputs, outputs
ROWS = (1, 3, 384, 1500)
COLD = 1e8  # bytes of weights that a measurement walks through, at least: more than a cache holds
Product = Callable[[torch.Tensor], torch.Tensor]


def plain(weight: torch.Tensor) -> Product:
    return lambda x: linear(x, weight)


def packed(dtype: torch.dtype) -> Callable[[torch.Tensor], Product]:
    def make(weight: torch.Tensor) -> Product:
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype))
        return lambda x: onednn_linear(x.to(dtype), laid_out)

    return make


def fbgemm_float16(weight: torch.Tensor) -> Product:
    laid_out = torch.ops.quantized.linear_prepack_fp16(weight, None)
    return lambda x: torch.ops.quantized.linear_dynamic_fp16(x, laid_out)


def int8_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (N, K) in -127 … 127, and the scale of each output (N,)."""
    scale = weight.abs().amax(dim=1).clamp_min(1e-12) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


def fbgemm_int8(reduce_range: bool) -> Callable[[torch.Tensor], Product]:
    def make(weight: torch.Tensor) -> Product:
        q, scale = int8_rows(weight)
        zeros = torch.zeros(len(q), dtype=torch.int64)
        w = torch._make_per_channel_quantized_tensor(q, scale.double(), zeros, 0)
        laid_out = torch.ops.quantized.linear_prepack(w, None)
        return lambda x: torch.ops.quantized.linear_dynamic(x, laid_out, reduce_range)

    return make


def fbgemm_int8_by_rows(weight: torch.Tensor) -> Product:
    """One scale a row: rows are brought to the same size before, and back after."""
    product = fbgemm_int8(reduce_range=False)(weight)

    def by_rows(x: torch.Tensor) -> torch.Tensor:
        size = x.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
        return product(x / size).mul_(size)

    return by_rows


def onednn_int8(signed: bool, out: torch.dtype) -> Callable[[torch.Tensor], Product]:
    """One scale a row, quantised by us: oneDNN sees integers whose scale is 1."""

    def make(weight: torch.Tensor) -> Product:
        q, scale = int8_rows(weight)
        laid_out = torch.ops.onednn.qlinear_prepack(q, None)
        zeros = torch.zeros(len(q), dtype=torch.int64)
        zero, dtype = (0, torch.int8) if signed else (128, torch.uint8)

        def product(x: torch.Tensor) -> torch.Tensor:
            size = x.abs().amax(dim=1, keepdim=True).float().clamp_min(1e-12) / 127
            integers = (x / size).round_().add_(zero).to(dtype)
            y = torch.ops.onednn.qlinear_pointwise(
                integers, 1.0, zero, laid_out, scale, zeros, None, 1.0, 0, out, "none", [], ""
            )
            return y.mul_(size.to(out))

        return product

    return make


def int_mm(weight: torch.Tensor) -> Product:
    q, scale = int8_rows(weight)
    transposed = q.t()

    def product(x: torch.Tensor) -> torch.Tensor:
        size = x.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
        return torch._int_mm((x / size).round_().to(torch.int8), transposed).float().mul_(size).mul_(scale)

    return product


def int8pack(dtype: torch.dtype) -> Callable[[torch.Tensor], Product]:
    def make(weight: torch.Tensor) -> Product:
        q, scale = int8_rows(weight)
        scale = scale.to(dtype)
        return lambda x: torch.ops.aten._weight_int8pack_mm(x.to(dtype), q, scale)

    return make


def int4_groups(weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights (N, K) in 0 … 15, and scale and zero (K / group, N) of each group: w = (q - 8) scale + zero."""
    groups = weight.unflatten(1, (-1, group))
    low, high = groups.aminmax(dim=2)
    scale = ((high - low) / 15).clamp_min(1e-12)
    q = ((groups - low[..., None]) / scale[..., None]).round().clamp_(0, 15).to(torch.int32).flatten(1)
    return q, scale.t().contiguous(), (low + 8 * scale).t().contiguous()


def int4pack(group: int, dtype: torch.dtype) -> Callable[[torch.Tensor], Product]:
    def make(weight: torch.Tensor) -> Product:
        q, scale, zero = int4_groups(weight, group)
        laid_out = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q, 1)
        both = torch.stack([scale, zero], dim=2).to(dtype).contiguous()
        return lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x.to(dtype), laid_out, group, both)

    return make


def dyn_quant_4bit(group: int) -> Callable[[torch.Tensor], Product]:
    """Symmetric 4 bits with activations in 8, whose kernels are KleidiAI's on ARM."""

    def make(weight: torch.Tensor) -> Product:
        outs, ins = weight.shape
        groups = weight.unflatten(1, (-1, group))
        scale = groups.abs().amax(dim=2).clamp_min(1e-12) / 7
        q = (groups / scale[..., None]).round().add_(8).to(torch.uint8).flatten(1)
        pairs = (q[:, 1::2] << 4) | q[:, ::2]
        laid_out = torch.ops.aten._dyn_quant_pack_4bit_weight(pairs, scale.float(), None, group, ins, outs)
        return lambda x: torch.ops.aten._dyn_quant_matmul_4bit(x, laid_out, group, ins, outs)

    return make


def in_panels(kind: type[Quantized]) -> Callable[[torch.Tensor], Product]:
    """The functions of evoxtral/model/panels.py."""

    known: dict[str, object] = {}  # the weight of before, and what it is quantised: copies need it once

    def make(weight: torch.Tensor) -> Product:
        if not panels.functions():
            raise RuntimeError("no compiled products on this CPU")
        if known.get("weight") is not weight:
            known.update(weight=weight, found=kind.of(weight))
        found = kind.joined([known["found"]])
        return quantized.in_panels(found) if kind is Int8 else found.product(few=True)

    return make


# operator -> (what makes it, bytes for a weight, the most rows it is measured with: some take minutes)
OPERATORS = {
    "oneDNN bfloat16 (today)": (packed(torch.bfloat16), 2, 1500),
    "FBGEMM float16 (today)": (fbgemm_float16, 2, 1500),
    "oneDNN float32": (packed(torch.float32), 4, 384),
    "FBGEMM int8": (fbgemm_int8(False), 1, 1500),
    "FBGEMM int8, reduced range": (fbgemm_int8(True), 1, 384),
    "FBGEMM int8, a scale a row": (fbgemm_int8_by_rows, 1, 1500),
    "oneDNN int8 signed, a scale a row": (onednn_int8(True, torch.float32), 1, 3),
    "oneDNN int8 unsigned, a scale a row": (onednn_int8(False, torch.float32), 1, 1500),
    "oneDNN int8 unsigned, bfloat16 out": (onednn_int8(False, torch.bfloat16), 1, 1500),
    "torch._int_mm, a scale a row": (int_mm, 1, 1500),
    "panels int8": (in_panels(Int8), 1, 1500),
    "panels int4": (in_panels(Int4), 0.5625, 1500),
    "_weight_int8pack_mm bfloat16": (int8pack(torch.bfloat16), 1, 1500),
    "_weight_int4pack_mm bfloat16, groups of 32": (int4pack(32, torch.bfloat16), 0.5, 384),
    "_weight_int4pack_mm bfloat16, groups of 128": (int4pack(128, torch.bfloat16), 0.5, 1500),
    "_weight_int4pack_mm float32, groups of 128": (int4pack(128, torch.float32), 0.5, 3),
    "_dyn_quant_matmul_4bit, groups of 32": (dyn_quant_4bit(32), 0.5, 3),
}


@torch.inference_mode()
def measured(
    ins: int, outs: int, rows: tuple[int, ...], repeats: int, only: tuple[str, ...]
) -> dict[str, dict[str, dict[str, float]]]:
    """rows -> operator -> milliseconds and error."""
    torch.manual_seed(0)
    weight = torch.randn(outs, ins) * ins**-0.5
    products: dict[str, list[Product]] = {}
    for name, (make, size, most) in OPERATORS.items():
        if not name.startswith(only) or min(rows) > most:
            continue
        copies = 1 + int(COLD / (size * ins * outs)) if min(rows) < 100 else 1
        try:
            products[name] = [make(weight) for _ in range(copies)]
        except RuntimeError as error:
            print(f"  {name}: {str(error).splitlines()[0]}", flush=True)
    table: dict[str, dict[str, dict[str, float]]] = {}
    for count in rows:
        x = torch.randn(count, ins)
        truth, times, errors = linear(x, weight), {name: [] for name in products}, {}
        for turn in range(repeats):
            for name, copies in products.items():
                if count > OPERATORS[name][2]:
                    continue
                begun = time.perf_counter()
                try:
                    y = copies[turn % len(copies)](x)
                except RuntimeError as error:
                    if not turn:
                        print(f"  {name}: {str(error).splitlines()[0]}", flush=True)
                    continue
                times[name].append(1e3 * (time.perf_counter() - begun))
                errors.setdefault(name, float((y.float() - truth).norm() / truth.norm()))
        table[str(count)] = {
            name: {"ms": round(statistics.median(t), 3), "shortest": round(min(t), 3), "error": round(errors[name], 5)}
            for name, t in times.items()
            if t
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--only", nargs="+", default=[""], help="operators whose names begin so")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--avx2", action="store_true", help="as on a CPU that has no more than AVX2")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shapes = {}
    for name, (ins, outs) in SHAPES.items():
        print(f"{name}: {ins} -> {outs}", flush=True)
        shapes[name] = {}
        for few in (True, False):  # a few rows walk through many copies of the weights, many rows through one
            if chosen := tuple(rows for rows in args.rows if (rows < 100) == few):
                shapes[name] |= measured(
                    ins, outs, chosen, args.repeats if few else max(3, args.repeats // 2), tuple(args.only)
                )
        for rows, column in shapes[name].items():
            for operator, row in column.items():
                times = f"{row['ms']:9.2f} ms (shortest {row['shortest']:9.2f})"
                print(f"  {rows:>5} rows  {times}  error {row['error']:.4f}  {operator}", flush=True)
    flags = torch.cpu.get_capabilities()
    kind = " ".join(name for name in ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_int8") if flags.get(name))
    content = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    key = f"{processor()}, {kind}{LIMITED}"
    products = content.get(key, {}).get("products", {})  # of other rows and operators stay
    for name, found in shapes.items():
        for rows, column in found.items():
            products.setdefault(name, {}).setdefault(rows, {}).update(column)
    content[key] = {"torch": torch.__version__, "threads": args.threads, "products": products}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

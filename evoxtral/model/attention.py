"""Attention in bfloat16 on a CPU that has AVX512-BF16, by functions that LLVM compiles: see `panels`.

Queries, keys and values are bfloat16, as they come; their products are added in float32, and so are scores, which
PyTorch's operators would write in bfloat16 or compute from float32 copies at half the speed. Only the shares that
multiply values are rounded to bfloat16, as everywhere, and in a step not even they. In the encoder and in prompts a
few queries are taken through all keys at a time, so that their scores stay in a core's cache.

Shapes: B rows of a batch, H query heads, K key/value heads, T queries, S positions, d width of a head.
"""

import ctypes
import logging
import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch.nn.functional import pad

from evoxtral.model import panels
from evoxtral.model.llvm_code import AVX512_VNNI, PANEL, Code, entered, shared_out, taken

log = logging.getLogger(__name__)

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
WIDTH = PANEL  # d in the encoder and in prompts
ROWS = 6  # queries that are taken through all keys together
_LEAST = -1e30  # the score of keys that are none
_BEHIND = 80  # so many of them, at most, have scores: less than a panel, and ROWS - 1
STEP_WIDTHS = (64, 128)  # d of the text model's heads
FEWEST = BLOCK = 16  # keys whose scores are added up together
ARGUMENTS = (
    "q", "k", "v", "out", "heads", "group", "blocks", "queries", "seen", "keys", "causal", "q_head", "q_row",
    "out_head", "out_row", "scale", "scratch", "each", "next", "slot",
)  # fmt: skip
STEP_ARGUMENTS = (
    "q", "k", "v", "out", "lengths", "units", "heads", "group", "row", "head", "scale", "scratch", "each", "next",
    "slot",
)  # fmt: skip
_NUMBERS = {*ARGUMENTS, *STEP_ARGUMENTS} - {"q", "k", "v", "out", "lengths", "scale", "scratch", "next", "slot"}
# 2^x for -0.5 … 0.5, by its Taylor series; off by 2e-6 of it.
_POWERS = tuple(math.log(2) ** n / math.factorial(n) for n in range(5, -1, -1))


def module() -> str:
    """The functions, in LLVM's language."""
    vector = "<16 x float>"
    declared = (
        f"declare {vector} @llvm.x86.avx512bf16.dpbf16ps.512({vector}, <32 x bfloat>, <32 x bfloat>)\n"
        f"declare <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512({vector})\n"
        f"declare {vector} @llvm.rint.v16f32({vector})\n"
        f"declare {vector} @llvm.maxnum.v16f32({vector}, {vector})\n"
        f"declare {vector} @llvm.fma.v16f32({vector}, {vector}, {vector})\n"
        "declare i64 @llvm.umin.i64(i64, i64)\n"
        f"declare float @llvm.vector.reduce.fmax.v16f32({vector})\n"
        f"declare float @llvm.vector.reduce.fadd.v16f32(float, {vector})\n"
        'attributes #0 = { nounwind "prefer-vector-width"="512" "min-legal-vector-width"="512" }'
    )
    steps = [_shares("float")]
    for width in STEP_WIDTHS:
        steps += [_scores_of_one(width), _sum_of_values(width), _step(width)]
    return "\n".join([_tile("scores"), _tile("values"), _shares("i16"), _attend(), *steps, declared])


def _number(value: float) -> str:
    """A float32 as LLVM writes it: the bits of the same number in 64 bits."""
    return f"0x{ctypes.c_uint64.from_buffer(ctypes.c_double(ctypes.c_float(value).value)).value:016X}"


def _tile(name: str) -> str:
    """ROWS rows (pairs of bfloat16, `stride` bytes apart) times a panel (pairs, 64, 2): of keys, written as float32
    scores; or of values, divided by the rows' sums and written as bfloat16."""
    c = Code(
        AVX512_VNNI, f"internal void @{name}(ptr %x, i64 %stride, ptr %w, i64 %pairs, ptr %sums, ptr %out, i64 %far)"
    )
    rows = c.rows(ROWS, "i8", "%x", "%stride")
    sides = PANEL // c.lanes
    names = [[f"%t{r}.{v}" for v in range(sides)] for r in range(ROWS)]
    c.loop("k", "%pairs", {name: (c.floats, "zeroinitializer") for row in names for name in row})
    first, pairs = c(f"mul i64 %k, {sides}"), f"<{2 * c.lanes} x bfloat>"
    weights = [c.load(pairs, "%w", c(f"add i64 {first}, {v}")) for v in range(sides)]
    for r in range(ROWS):
        x = c(f"bitcast {c.ints} {c.splat('i32', c.load('i32', rows[r], '%k'))} to {pairs}")
        for v in range(sides):
            dot = f"call {c.floats} @llvm.x86.avx512bf16.dpbf16ps.512"
            c(f"{dot}({c.floats} {names[r][v]}, {pairs} {weights[v]}, {pairs} {x})", f"{names[r][v]}.next")
    c.end()
    kind = "float" if name == "scores" else "i16"
    for r in range(ROWS):
        out = c.at(kind, "%out", c(f"mul i64 %far, {r}"))
        if name == "values":
            share = c.splat("float", c(f"fdiv float 1.0, {c.load('float', '%sums', r)}"))
        for v in range(sides):
            y = f"{names[r][v]}.next"
            if name == "values":
                y = _halved(c, c(f"fmul {c.floats} {y}, {share}"))
            c.store(f"<{c.lanes} x {kind}>", y, out, v)
    return c.text()


def _shares(kind: str) -> str:
    """A row of scores (vectors x 16) as shares of the largest one, e to the power of their difference, in bfloat16 or
    float32, perhaps in place; and their sum."""
    c = Code(AVX512_VNNI, f"internal void @shares_{kind}(ptr %s, i64 %vectors, float %scale, ptr %out, ptr %sum)")
    c.loop("m", "%vectors", {"%most": (c.floats, c.all(_number(_LEAST), "float"))})
    score = c.load(c.floats, "%s", "%m")
    c(f"call {c.floats} @llvm.maxnum.v{c.lanes}f32({c.floats} %most, {c.floats} {score})", "%most.next")
    c.end()
    most = c(f"call float @llvm.vector.reduce.fmax.v{c.lanes}f32({c.floats} %most.next)")
    most, scale = c.splat("float", most), c.splat("float", "%scale")
    c.loop("n", "%vectors", {"%total": (c.floats, "zeroinitializer")})
    x = c(f"fsub {c.floats} {c.load(c.floats, '%s', '%n')}, {most}")
    x = c(f"fmul {c.floats} {x}, {scale}")  # of a power of 2
    x = c(f"call {c.floats} @llvm.maxnum.v{c.lanes}f32({c.floats} {x}, {c.floats} {c.all('-126.0', 'float')})")
    whole = c(f"call {c.floats} @llvm.rint.v{c.lanes}f32({c.floats} {x})")
    rest = c(f"fsub {c.floats} {x}, {whole}")
    y = c.all(_number(_POWERS[0]), "float")
    for power in _POWERS[1:]:
        y = c.fma(y, rest, c.all(_number(power), "float"))
    exponent = c(f"shl {c.ints} {c(f'fptosi {c.floats} {whole} to {c.ints}')}, {c.all(23)}")
    y = c(f"add {c.ints} {c(f'bitcast {c.floats} {y} to {c.ints}')}, {exponent}")
    y = c(f"bitcast {c.ints} {y} to {c.floats}")
    c.store(f"<{c.lanes} x {kind}>", y if kind == "float" else _halved(c, y), "%out", "%n")
    c(f"fadd {c.floats} %total, {y}", "%total.next")
    c.end()
    total = c(f"call reassoc float @llvm.vector.reduce.fadd.v{c.lanes}f32(float 0.0, {c.floats} %total.next)")
    c.store("float", total, "%sum")
    return c.text()


def _halved(c: Code, x: str) -> str:
    """As `Code.halved`, by the instruction of AVX512-BF16."""
    half = c(f"call <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512({c.floats} {x})")
    return c(f"bitcast <16 x bfloat> {half} to <16 x i16>")


def _attend() -> str:
    """All heads: ROWS queries of a head for each thread that comes, over the keys that the last of them sees.

    What lies behind the keys of a row gets the least score, up to 80 numbers. That may reach into the row below, and of
    the last row into shares: so the last row is done first.
    """
    c = entered(AVX512_VNNI, "attend", ARGUMENTS, _NUMBERS)
    far = c("mul i64 %keys, 2")  # bytes from a row of shares to the next
    slot = c("atomicrmw add ptr %slot, i64 1 monotonic")
    own = c.at("i8", "%scratch", c(f"mul i64 {slot}, %each"))  # sums, scores, shares
    scores = c.at("i8", own, 64)
    shares = c.at("float", scores, c(f"mul i64 %keys, {ROWS}"))
    scale, behind, causal = c.load("float", "%scale"), c("sub i64 %seen, %queries"), c("icmp ne i64 %causal, 0")
    shared_out(c, c("mul i64 %heads, %blocks"))
    head, block = c("udiv i64 %i, %blocks"), c("urem i64 %i, %blocks")
    row = c(f"call i64 @llvm.umin.i64(i64 {c(f'mul i64 {block}, {ROWS}')}, i64 {c(f'sub i64 %queries, {ROWS}')})")
    place = c(f"add i64 {c(f'mul i64 {head}, %q_head')}, {c(f'mul i64 {row}, %q_row')}")
    q, stride = c.at("i16", "%q", place), c("mul i64 %q_row, 2")
    whole = c(f"mul i64 {c(f'udiv i64 {head}, %group')}, {c(f'mul i64 %keys, {WIDTH}')}")
    k, v = c.at("i16", "%k", whole), c.at("i16", "%v", whole)
    before, seen = c(f"add i64 {row}, {behind}"), []
    for r in range(1, ROWS + 1):
        seen.append(c(f"select i1 {causal}, i64 {c(f'add i64 {before}, {r}')}, i64 %seen"))
    count = c(f"udiv i64 {c(f'add i64 {seen[-1]}, {PANEL - 1}')}, {PANEL}")
    c.loop("p", count, {})
    w = c.at("i16", k, c(f"mul i64 %p, {PANEL * WIDTH}"))
    s = c.at("float", scores, c(f"mul i64 %p, {PANEL}"))
    c.do(f"call void @scores(ptr {q}, i64 {stride}, ptr {w}, i64 {WIDTH // 2}, ptr {own}, ptr {s}, i64 %keys)")
    c.end()
    vectors, pairs = c(f"mul i64 {count}, {PANEL // c.lanes}"), c(f"mul i64 {count}, {PANEL // 2}")
    for r in reversed(range(ROWS)):
        s, y = (c.at(kind, begin, c(f"mul i64 %keys, {r}")) for kind, begin in (("float", scores), ("i16", shares)))
        for part in range(_BEHIND // c.lanes):
            c.store(c.floats, c.all(_number(_LEAST), "float"), c.at("float", s, seen[r]), part)
        c.do(f"call void @shares_i16(ptr {s}, i64 {vectors}, float {scale}, ptr {y}, ptr {c.at('float', own, r)})")
    place = c(f"add i64 {c(f'mul i64 {head}, %out_head')}, {c(f'mul i64 {row}, %out_row')}")
    arguments = f"ptr {shares}, i64 {far}, ptr {v}, i64 {pairs}, ptr {own}, ptr {c.at('i16', '%out', place)}"
    c.do(f"call void @values({arguments}, i64 %out_row)")
    return taken(c)


def _scores_of_one(width: int) -> str:
    """The scores of one query: BLOCK keys at a time, the last of which may come twice."""
    c = Code(AVX512_VNNI, f"internal void @scores_{width}(ptr %q, ptr %k, i64 %blocks, i64 %last, ptr %s)")
    parts, pairs = width // 32, "<32 x bfloat>"
    query = [c.load(pairs, "%q", part) for part in range(parts)]
    c.loop("b", "%blocks", {})
    first = c(f"call i64 @llvm.umin.i64(i64 {c(f'mul i64 %b, {BLOCK}')}, i64 %last)")
    keys, totals = c.at("i16", "%k", c(f"mul i64 {first}, {width}")), []
    for key in range(BLOCK):
        total = "zeroinitializer"
        for part in range(parts):
            one = c.load(pairs, keys, key * parts + part)
            dot = f"call {c.floats} @llvm.x86.avx512bf16.dpbf16ps.512"
            total = c(f"{dot}({c.floats} {total}, {pairs} {one}, {pairs} {query[part]})")
        totals.append(total)
    c.store(c.floats, c.sums(totals), c.at("float", "%s", first))
    c.end()
    return c.text()


def _sum_of_values(width: int) -> str:
    """The values (keys, d) of one head by shares of them in float32, divided by their sum."""
    c = Code(AVX512_VNNI, f"internal void @values_{width}(ptr %s, ptr %v, i64 %keys, ptr %sum, ptr %out)")
    names = [f"%t{part}" for part in range(width // c.lanes)]
    c.loop("k", "%keys", {name: (c.floats, "zeroinitializer") for name in names})
    share, row = c.splat("float", c.load("float", "%s", "%k")), c.at("i16", "%v", c(f"mul i64 %k, {width}"))
    for part, name in enumerate(names):
        c.fma(share, c.doubled(c.load(f"<{c.lanes} x i16>", row, part)), name, f"{name}.next")
    c.end()
    share = c.splat("float", c(f"fdiv float 1.0, {c.load('float', '%sum')}"))
    for part, name in enumerate(names):
        y = _halved(c, c(f"fmul {c.floats} {name}.next, {share}"))
        c.store(f"<{c.lanes} x i16>", y, "%out", part)
    return c.text()


def _step(width: int) -> str:
    """One query for each head of each row, over as many keys as the row has."""
    c = entered(AVX512_VNNI, f"step_{width}", STEP_ARGUMENTS, _NUMBERS)
    slot, scale = c("atomicrmw add ptr %slot, i64 1 monotonic"), c.load("float", "%scale")
    own = c.at("i8", "%scratch", c(f"mul i64 {slot}, %each"))  # the sum, and scores
    scores = c.at("i8", own, 64)
    shared_out(c, "%units")
    row, head = c("udiv i64 %i, %heads"), c("urem i64 %i, %heads")
    keys, place = c.load("i64", "%lengths", row), c(f"mul i64 %i, {width}")
    group = c(f"udiv i64 {head}, %group")
    far = c(f"add i64 {c(f'mul i64 {row}, %row')}, {c(f'mul i64 {group}, %head')}")
    k, v, q, out = (c.at("i16", begin, at) for begin, at in (("%k", far), ("%v", far), ("%q", place), ("%out", place)))
    blocks = c(f"udiv i64 {c(f'add i64 {keys}, {BLOCK - 1}')}, {BLOCK}")
    c.do(
        f"call void @scores_{width}(ptr {q}, ptr {k}, i64 {blocks}, i64 {c(f'sub i64 {keys}, {BLOCK}')}, ptr {scores})"
    )
    c.store(c.floats, c.all(_number(_LEAST), "float"), c.at("float", scores, keys))  # behind the last
    c.do(f"call void @shares_float(ptr {scores}, i64 {blocks}, float {scale}, ptr {scores}, ptr {own})")
    c.do(f"call void @values_{width}(ptr {scores}, ptr {v}, i64 {keys}, ptr {own}, ptr {out})")
    return taken(c)


class Functions:
    """The compiled functions, and the threads of PyTorch that run it."""

    def __init__(self):
        """Raises OSError, RuntimeError, ImportError or StopIteration."""
        import llvmlite.binding as llvm

        features = llvm.get_host_cpu_features().flatten()
        self._engine = panels.compiled(module(), llvm.get_host_cpu_name(), features)
        names = ("attend", *(f"step_{width}" for width in STEP_WIDTHS))
        self._addresses = {name: self._engine.get_function_address(name) for name in names}
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self._functions = {name: kind(address) for name, address in self._addresses.items()}
        self._parallel = panels.openmp()

    def _run(self, name: str, numbers: Sequence[int], threads: int) -> None:
        """numbers: the arguments, but for the last two, which count."""
        arguments = (ctypes.c_int64 * (len(numbers) + 4))()
        counters = ctypes.addressof(arguments) + 8 * (len(numbers) + 2)
        arguments[: len(numbers) + 2] = (*numbers, counters, counters + 8)
        if threads == 1:
            self._functions[name](arguments)
        else:
            self._parallel(self._addresses[name], arguments, threads, 0)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = False) -> torch.Tensor:
        """q (B, H, T, 64) bfloat16, T at least ROWS, k and v (B, K, S, 64) -> (B, H, T, 64).

        causal: the queries are at the last T of the S positions, and see those up to their own.
        """
        (b, h, t, d), (heads, seen) = q.shape, k.shape[1:3]
        out = q.new_empty(b, t, h, d).transpose(1, 2)
        q = q if q.stride(-1) == 1 else q.contiguous()
        keys, threads = -(-seen // PANEL) * PANEL, torch.get_num_threads()
        more = (0, 0, 0, keys - seen)
        # (K, panels, d / 2, 64, 2), as pairs of bfloat16; and (K, keys / 2, 64, 2)
        k = pad(k, more).contiguous().view(torch.int32).view(b, heads, -1, PANEL, d // 2).transpose(3, 4)
        v = pad(v, more).view(b, heads, keys // 2, 2, d).transpose(3, 4)
        k, v = k.contiguous(), v.contiguous()
        scale, each = ctypes.c_float(d**-0.5 / math.log(2)), 64 + 6 * ROWS * keys + 4 * _BEHIND
        scratch = torch.empty(each * threads, dtype=torch.uint8)
        for i in range(b):
            numbers = (
                q[i].data_ptr(), k[i].data_ptr(), v[i].data_ptr(), out[i].data_ptr(), h, h // heads, -(-t // ROWS), t,
                seen, keys, causal, q.stride(1), q.stride(2), out.stride(1), out.stride(2),
                ctypes.addressof(scale), scratch.data_ptr(), each,
            )  # fmt: skip
            self._run("attend", numbers, threads)
        return out

    def step(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """One query for each head, q (B, H, d) bfloat16, to the first positions of a cache (B, K, L, d) -> (B, H, d).

        lengths (B,): how many positions each row has, int64, at least BLOCK.
        """
        b, h, d = q.shape
        q, out, threads = q.contiguous(), q.new_empty(b, h, d), torch.get_num_threads()
        scale, each = ctypes.c_float(d**-0.5 / math.log(2)), 64 + 4 * (keys.shape[2] + 2 * BLOCK)
        each = -(-each // 64) * 64
        scratch = torch.empty(each * threads, dtype=torch.uint8)
        numbers = (
            q.data_ptr(), keys.data_ptr(), values.data_ptr(), out.data_ptr(), lengths.data_ptr(), b * h, h,
            h // keys.shape[1], keys.stride(0), keys.stride(1), ctypes.addressof(scale), scratch.data_ptr(), each,
        )  # fmt: skip
        self._run(f"step_{d}", numbers, threads)
        return out


@cache
def functions() -> Functions | None:
    """Compiled once in a process; None where the CPU or a library lacks what they need."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not panels.functions():
        return None
    import llvmlite.binding as llvm

    if not llvm.get_host_cpu_features().get("avx512bf16"):
        return None
    try:
        return Functions()
    except (ImportError, OSError, RuntimeError, StopIteration) as error:  # RuntimeError: LLVM before 17
        log.info("no compiled attention: %s", error)
        return None


def fitting(q: torch.Tensor) -> list[Callable[..., torch.Tensor]]:
    """`Functions.attend` for such queries, where there is one."""
    fit = q.device.type == "cpu" and q.dtype is torch.bfloat16 and q.shape[-1] == WIDTH and q.shape[-2] >= ROWS
    return [ours.attend] if fit and (ours := functions()) else []


def of_a_step(keys: torch.Tensor) -> Callable[..., torch.Tensor] | None:
    """`Functions.step` for a cache with such keys (…, L, d), None where there is none."""
    fit = keys.device.type == "cpu" and keys.dtype is torch.bfloat16 and keys.shape[-1] in STEP_WIDTHS
    return ours.step if fit and (ours := functions()) else None

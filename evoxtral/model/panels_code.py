"""The functions of `panels` in LLVM's language, for registers of 256 and of 512 bits.

One dot of four unsigned bytes with four signed ones, added to 32 bits, is vpdpbusd where the CPU has VNNI. Elsewhere
it is vpmaddubsw and vpmaddwd, whose sums of two products have 16 bits: with weights of 8 bits, activations have 7.
"""

from evoxtral.model.llvm_code import PANEL, Code, Instructions, entered, shared_out, taken

GROUP = 32  # inputs that share a and b in 4 bits
FEW = 12  # rows up to which 4 bits are not expanded
KINDS = ("float", "i16")  # of activations and results, i16 for bfloat16
WEIGHT_BESIDE = {"float": "half", "i16": "i16"}  # of adapters beside such activations
# What every thread gets of a call: 64 bits each, in this order.
ARGUMENTS = (
    "x", "rows", "ins", "most", "q", "stride", "sizes", "sums", "groups",
    "weight", "a", "b", "scale", "out", "outs", "next", "scratch", "slot",
)  # fmt: skip
# The same of the products by an adapter, and the fields of one job of them: an adapter's layer and its rows.
ADAPTER_ARGUMENTS = ("x", "stride", "ins", "out", "outs", "jobs", "count", "next")
JOB = ("first", "rows", "weight", "wide", "into")
NORM_ARGUMENTS = ("x", "rows", "ins", "eps", "weight", "out", "next")
_PARTS = 16  # of a job, which threads share
_NUMBERS = ("rows", "ins", "stride", "outs", "count", "first", "wide", "into")
_TILE = (
    "ptr %q, i64 %stride, ptr %sizes, ptr %sums, ptr %groups, ptr %w, ptr %a, ptr %b, i64 %ins, ptr %scale, ptr %out, "
    "i64 %outs"
)
_TINY = "0x3D71979980000000"  # 1e-12, in place of the size of a row of zeros


def module(isa: Instructions, operand: str) -> str:
    """All functions.  operand: how this LLVM declares what vpdpbusd multiplies, as "i8" or "i32"."""
    ints, floats, lanes = f"<{isa.lanes} x i32>", f"<{isa.lanes} x float>", isa.lanes
    parts = [_dot(isa, operand), _expand(isa)]
    for kind in KINDS:
        parts += [_tile_8(isa, rows, kind) for rows in range(1, isa.rows + 1)]
        parts += [_tile_4(isa, rows, kind) for rows in range(1, isa.rows_4 + 1)]
        parts += [_over_rows(isa, 8, isa.rows, kind), _over_rows(isa, 4, isa.rows_4, kind)]
        parts += [_product(isa, 8, kind), _product(isa, 4, kind), _quantize(isa, kind)]
        parts += [_dots(isa, "low", kind), _adapted(isa, "low", kind), _dots(isa, "high", kind)]
        parts += [_adapted(isa, "high", kind), _norm(isa, kind)]
    width = 32 * lanes
    parts.append(
        f"declare {floats} @llvm.rint.v{lanes}f32({floats})\n"
        f"declare {floats} @llvm.fabs.v{lanes}f32({floats})\n"
        f"declare {floats} @llvm.maxnum.v{lanes}f32({floats}, {floats})\n"
        f"declare {floats} @llvm.fma.v{lanes}f32({floats}, {floats}, {floats})\n"
        f"declare float @llvm.vector.reduce.fmax.v{lanes}f32({floats})\n"
        f"declare i32 @llvm.vector.reduce.add.v{lanes}i32({ints})\n"
        f"declare float @llvm.vector.reduce.fadd.v{lanes}f32(float, {floats})\n"
        "declare float @llvm.maxnum.f32(float, float)\n"
        "declare float @llvm.sqrt.f32(float)\n"
        "declare i64 @llvm.umin.i64(i64, i64)\n"
        "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)\n"
        f'attributes #0 = {{ nounwind "prefer-vector-width"="{width}" "min-legal-vector-width"="{width}" }}'
    )
    return "\n".join(parts)


def _dot(isa: Instructions, operand: str) -> str:
    ints, shorts, byte = f"<{isa.lanes} x i32>", f"<{2 * isa.lanes} x i16>", f"<{4 * isa.lanes} x i8>"
    head = f"define internal {ints} @dot({ints} %t, {ints} %u, {ints} %s) #0 alwaysinline {{"
    if isa.dot:
        byte = byte if operand == "i8" else ints
        product = f"  %y = call {ints} @{isa.dot}({ints} %t, {byte} %a, {byte} %b)"
        declared = f"declare {ints} @{isa.dot}({ints}, {byte}, {byte})"
    else:
        ones = f"<{', '.join(['i16 1'] * 2 * isa.lanes)}>"
        product = (
            f"  %h = call {shorts} @llvm.x86.avx2.pmadd.ub.sw({byte} %a, {byte} %b)\n"
            f"  %w = call {ints} @llvm.x86.avx2.pmadd.wd({shorts} %h, {shorts} {ones})\n"
            f"  %y = add {ints} %t, %w"
        )
        declared = (
            f"declare {shorts} @llvm.x86.avx2.pmadd.ub.sw({byte}, {byte})\n"
            f"declare {ints} @llvm.x86.avx2.pmadd.wd({shorts}, {shorts})"
        )
    casts = f"  %a = bitcast {ints} %u to {byte}\n  %b = bitcast {ints} %s to {byte}"
    return "\n".join([declared, head, casts, product, f"  ret {ints} %y", "}", ""])


def _scaled(c: Code, totals: list[list[str]], kind: str) -> None:
    """Write sums, without the offset of unsigned weights, times the scales of rows and outputs."""
    scales = [c.load(c.floats, "%scale", v) for v in range(len(totals[0]))]
    for r, row in enumerate(totals):
        size = c.splat("float", c.load("float", "%sizes", r))
        offset = c(f"shl i32 {c.load('i32', '%sums', r)}, 7")
        offset = c.splat("float", c(f"sitofp i32 {offset} to float"))
        out = c.at(kind, "%out", c(f"mul i64 {r}, %outs"))
        for v, total in enumerate(row):
            y = c(f"fmul {c.floats} {c(f'fsub {c.floats} {total}, {offset}')}, {size}")
            y = c(f"fmul {c.floats} {y}, {scales[v]}")
            if kind == "i16":
                y = c.halved(y)
            c.store(f"<{c.lanes} x {kind}>", y, out, v)


def _tile_8(isa: Instructions, rows: int, kind: str) -> str:
    """Some rows times some outputs of 8 bits."""
    c = Code(isa, f"internal void @tile_8_{kind}_{rows}({_TILE})")
    inputs, count = c.rows(rows, "i8", "%q", "%stride"), c("lshr i64 %ins, 2")
    names = [[f"%t{r}.{v}" for v in range(isa.vectors)] for r in range(rows)]
    c.loop("k", count, {name: (c.ints, "zeroinitializer") for row in names for name in row})
    first = c(f"mul i64 %k, {PANEL // isa.lanes}")
    weights = [c.load(c.ints, "%w", c(f"add i64 {first}, {v}")) for v in range(isa.vectors)]
    if isa.passes > 1 and rows <= isa.rows_4:
        c.prefetched("%w", first)
    for r in range(rows):
        x = c.splat("i32", c.load("i32", inputs[r], "%k"))
        for v in range(isa.vectors):
            c.dot(names[r][v], weights[v], x, f"{names[r][v]}.next")
    c.end()
    _scaled(c, [[c(f"sitofp {c.ints} {name}.next to {c.floats}") for name in row] for row in names], kind)
    return c.text()


def _tile_4(isa: Instructions, rows: int, kind: str) -> str:
    """Some rows times some outputs of 4 bits: for each group a sum of codes, times a / 16; and b times the sum of x."""
    c = Code(isa, f"internal void @tile_4_{kind}_{rows}({_TILE})")
    inputs, count = c.rows(rows, "i8", "%q", "%stride"), c(f"udiv i64 %ins, {GROUP}")
    of_groups = c.rows(rows, "float", "%groups", count)
    names = [[f"%t{r}.{v}" for v in range(isa.vectors)] for r in range(rows)]
    c.loop("g", count, {name: (c.floats, "zeroinitializer") for row in names for name in row})
    steps, side = GROUP // 8, PANEL // isa.lanes
    sums = [["zeroinitializer"] * isa.vectors for _ in range(rows)]
    first, x_first = c(f"mul i64 %g, {steps * side}"), c(f"mul i64 %g, {GROUP // 4}")
    for s in range(steps):
        both = [c.load(c.ints, "%w", c(f"add i64 {first}, {s * side + v}")) for v in range(isa.vectors)]
        for half in range(2):
            codes = [c(f"lshr {c.ints} {w}, {c.all(4)}") for w in both] if half else both
            codes = [c(f"and {c.ints} {w}, {c.all(0x0F0F0F0F)}") for w in codes]
            for r in range(rows):
                x = c.splat("i32", c.load("i32", inputs[r], c(f"add i64 {x_first}, {2 * s + half}")))
                sums[r] = [c.dot(total, w, x) for total, w in zip(sums[r], codes, strict=True)]
    place = c(f"mul i64 %g, {side}")
    group = [c.splat("float", c.load("float", row, "%g")) for row in of_groups]
    for v in range(isa.vectors):
        here = c(f"add i64 {place}, {v}")
        a, b = (c(f"uitofp {c.ints} {c.widened(p, here)} to {c.floats}") for p in ("%a", "%b"))
        for r in range(rows):
            total = c.fma(c(f"sitofp {c.ints} {sums[r][v]} to {c.floats}"), a, names[r][v])
            c.fma(group[r], b, total, f"{names[r][v]}.next")
    c.end()
    sixteenth = c.all("0.0625", "float")
    _scaled(c, [[c(f"fmul {c.floats} {name}.next, {sixteenth}") for name in row] for row in names], kind)
    return c.text()


def _expand(isa: Instructions) -> str:
    """A panel of 4 bits in 8: (q a 16 + b 256 + 128) / 256."""
    c = Code(isa, "internal void @expand(ptr %w, ptr %a, ptr %b, i64 %ins, ptr %out)")
    c.loop("g", c(f"udiv i64 %ins, {GROUP}"), {})
    steps, side = GROUP // 8, PANEL // isa.lanes
    first, place = c(f"mul i64 %g, {steps * side}"), c(f"mul i64 %g, {side}")
    twice = c(f"mul i64 {first}, 2")
    for v in range(side):
        here = c(f"add i64 {place}, {v}")
        a = c(f"mul {c.ints} {c.widened('%a', here)}, {c.all(16 * 0x10001)}")
        b = c(f"shl {c.ints} {c.widened('%b', here)}, {c.all(8)}")
        b = c(f"or {c.ints} {b}, {c.all(128)}")
        b = c(f"mul {c.ints} {b}, {c.all(0x10001)}")
        a, b = (c(f"bitcast {c.ints} {value} to {c.shorts}") for value in (a, b))
        for s in range(steps):
            both = c.load(c.ints, "%w", c(f"add i64 {first}, {s * side + v}"))
            for half in range(2):
                ends = []
                for odd in range(2):
                    codes = c(f"lshr {c.ints} {both}, {c.all(4 * half + 8 * odd)}")
                    codes = c(f"and {c.ints} {codes}, {c.all(0x000F000F)}")
                    codes = c(f"bitcast {c.ints} {codes} to {c.shorts}")
                    ends.append(c(f"add {c.shorts} {c(f'mul {c.shorts} {codes}, {a}')}, {b}"))
                even = c(f"lshr {c.shorts} {ends[0]}, {c.all(8, 'i16')}")
                odd = c(f"and {c.shorts} {ends[1]}, {c.all(-256, 'i16')}")
                into = c(f"add i64 {twice}, {(2 * s + half) * side + v}")
                c.store(c.shorts, c(f"or {c.shorts} {even}, {odd}"), "%out", into)
    c.end()
    return c.text()


def _over_rows(isa: Instructions, bits: int, most: int, kind: str) -> str:
    """All rows times some outputs: `most` rows at a time, then the rest."""
    c = Code(isa, f"internal void @rows_{bits}_{kind}({_TILE}, i64 %rows)")
    groups = c(f"udiv i64 %ins, {GROUP}")
    c.do("br label %next")
    c.label("next")
    c.do(f"%row = phi i64 [0, %entry], {', '.join(f'[%after, %one{m}]' for m in range(1, most + 1))}")
    q, sizes = c.at("i8", "%q", c("mul i64 %row, %stride")), c.at("float", "%sizes", "%row")
    sums, of_groups = c.at("i32", "%sums", "%row"), c.at("float", "%groups", c(f"mul i64 %row, {groups}"))
    out = c.at(kind, "%out", c("mul i64 %row, %outs"))
    c(f"call i64 @llvm.umin.i64(i64 {c('sub i64 %rows, %row')}, i64 {most})", "%taken")
    c("add i64 %row, %taken", "%after")
    c("icmp ult i64 %after, %rows", "%more")
    c.do(f"switch i64 %taken, label %one{most} [{' '.join(f'i64 {m}, label %one{m}' for m in range(1, most))}]")
    arguments = (
        f"ptr {q}, i64 %stride, ptr {sizes}, ptr {sums}, ptr {of_groups}, ptr %w, ptr %a, ptr %b, i64 %ins, "
        f"ptr %scale, ptr {out}, i64 %outs"
    )
    for m in range(1, most + 1):
        c.label(f"one{m}")
        c.do(f"call void @tile_{bits}_{kind}_{m}({arguments})")
        c.do("br i1 %more, label %next, label %done")
    c.label("done")
    return c.text()


def _product(isa: Instructions, bits: int, kind: str) -> str:
    """All rows times all panels."""
    c = entered(isa, f"product_{bits}_{kind}", ARGUMENTS, _NUMBERS)
    if bits == 4:
        slot = c("atomicrmw add ptr %slot, i64 1 monotonic")
        own = c.at("i8", "%scratch", c(f"mul i64 {slot}, {c(f'mul i64 %ins, {PANEL}')}"))
    shared_out(c, c(f"udiv i64 %outs, {PANEL}"))
    first, groups = c(f"mul i64 %i, {PANEL}"), c(f"udiv i64 %ins, {GROUP}")
    weights = c(f"mul i64 {first}, %ins")
    w = c.at("i8", "%weight", weights if bits == 8 else c(f"lshr i64 {weights}, 1"))
    a, b = (c.at("i8", p, c(f"mul i64 {first}, {groups}")) if bits == 4 else p for p in ("%a", "%b"))
    scale, out = c.at("float", "%scale", first), c.at(kind, "%out", first)

    def rows(bits: int, w: str) -> None:
        for part in range(isa.passes):
            place = part * isa.vectors * isa.lanes
            here = c.at("i8", w, 4 * place)
            aa, bb = (c.at("i8", p, place) for p in (a, b))
            c.do(
                f"call void @rows_{bits}_{kind}(ptr %q, i64 %stride, ptr %sizes, ptr %sums, ptr %groups, ptr {here}, "
                f"ptr {aa}, ptr {bb}, i64 %ins, ptr {c.at('float', scale, place)}, ptr {c.at(kind, out, place)}, "
                "i64 %outs, i64 %rows)"
            )

    if bits == 4:
        c.do(f"br i1 {c(f'icmp ugt i64 %rows, {FEW}')}, label %many, label %few")
        c.label("many")
        c.do(f"call void @expand(ptr {w}, ptr {a}, ptr {b}, i64 %ins, ptr {own})")
        rows(8, own)
        c.do("br label %take")
        c.label("few")
    rows(bits, w)
    return taken(c)


def _quantize(isa: Instructions, kind: str) -> str:
    """Activations in signed bytes: for each row its size / most and its sum, and 16 times the sum of each group."""
    c = entered(isa, f"quantize_{kind}", ARGUMENTS, _NUMBERS)
    parts = GROUP // c.lanes
    limit = c.load("float", "%most")
    shared_out(c, "%rows")
    row = c.at(kind, "%x", c("mul i64 %i, %ins"))
    q = c.at("i8", "%q", c("mul i64 %i, %stride"))
    groups = c(f"udiv i64 %ins, {GROUP}")
    into = c.at("float", "%groups", c(f"mul i64 %i, {groups}"))
    c.loop("m", c(f"udiv i64 %ins, {c.lanes}"), {"%size": (c.floats, "zeroinitializer")})
    size = c(f"call {c.floats} @llvm.fabs.v{c.lanes}f32({c.floats} {c.values(kind, row, '%m')})")
    c(f"call {c.floats} @llvm.maxnum.v{c.lanes}f32({c.floats} %size, {c.floats} {size})", "%size.next")
    c.end()
    size = c(f"call float @llvm.vector.reduce.fmax.v{c.lanes}f32({c.floats} %size.next)")
    size = c(f"call float @llvm.maxnum.f32(float {size}, float {_TINY})")
    c.store("float", c(f"fdiv float {size}, {limit}"), "%sizes", "%i")
    factor = c.splat("float", c(f"fdiv float {limit}, {size}"))
    c.loop("g", groups, {"%sum": ("i32", "0")})
    total = "0"
    for part in range(parts):
        place = c(f"add i64 {c(f'mul i64 %g, {parts}')}, {part}")
        x = c(f"fmul {c.floats} {c.values(kind, row, place)}, {factor}")
        x = c(f"call {c.floats} @llvm.rint.v{c.lanes}f32({c.floats} {x})")
        x = c(f"fptosi {c.floats} {x} to {c.ints}")
        c.store(f"<{c.lanes} x i8>", c(f"trunc {c.ints} {x} to <{c.lanes} x i8>"), q, place)
        total = c(f"add i32 {total}, {c(f'call i32 @llvm.vector.reduce.add.v{c.lanes}i32({c.ints} {x})')}")
    c.store("float", c(f"sitofp i32 {c(f'shl i32 {total}, 4')} to float"), into, "%g")
    c(f"add i32 %sum, {total}", "%sum.next")
    c.end()
    c.store("i32", "%sum.next", "%sums", "%i")
    return taken(c)


def _dots(isa: Instructions, what: str, kind: str) -> str:
    """One row by as many rows of a 16-bit weight as a vector has lanes: x A, in float32 ("low"), or that by B, which is
    added to the output ("high")."""
    x_kind, out_kind = (kind, "float") if what == "low" else ("float", kind)
    c = Code(isa, f"internal void @dots_{what}_{kind}(ptr %x, ptr %w, i64 %ins, ptr %out)")
    rows, count = c.rows(isa.lanes, "i16", "%w", "%ins"), c(f"udiv i64 %ins, {GROUP}")
    names = [f"%t{r}" for r in range(isa.lanes)]
    c.loop("k", count, {name: (c.floats, "zeroinitializer") for name in names})
    totals, parts = names, GROUP // isa.lanes
    for part in range(parts):
        place = c(f"add i64 {c(f'mul i64 %k, {parts}')}, {part}")
        x, last = c.values(x_kind, "%x", place), part == parts - 1
        weights = [c.values(WEIGHT_BESIDE[kind], row, place) for row in rows]
        pairs = zip(weights, totals, names, strict=True)
        totals = [c.fma(x, w, total, f"{name}.next" if last else "") for w, total, name in pairs]
    c.end()
    y = c.sums([f"{name}.next" for name in names])
    if what == "high":
        y = c(f"fadd {c.floats} {y}, {c.values(kind, '%out', 0)}")
    if out_kind == "i16":
        y = c.halved(y)
    c.store(f"<{c.lanes} x {out_kind}>", y, "%out")
    return c.text()


def _adapted(isa: Instructions, what: str, kind: str) -> str:
    """All jobs: `rows` of x, from number `first` on, by `weight` of `wide` outputs, from number `into` of out on."""
    x_kind, out_kind = (kind, "float") if what == "low" else ("float", kind)
    c = entered(isa, f"{what}_{kind}", ADAPTER_ARGUMENTS, _NUMBERS)
    shared_out(c, c(f"mul i64 %count, {_PARTS}"))
    c.fields(c.at("i64", "%jobs", c(f"mul i64 {c(f'udiv i64 %i, {_PARTS}')}, {len(JOB)}")), JOB, _NUMBERS)
    groups = c(f"udiv i64 %wide, {isa.lanes}")
    each = c(f"udiv i64 {c(f'add i64 {groups}, {_PARTS - 1}')}, {_PARTS}")
    begin = c(f"mul i64 {c(f'urem i64 %i, {_PARTS}')}, {each}")
    end = c(f"call i64 @llvm.umin.i64(i64 {groups}, i64 {c(f'add i64 {begin}, {each}')})")
    c.do(f"br i1 {c(f'icmp ult i64 {begin}, {end}')}, label %some, label %take")
    c.label("some")
    c.loop("t", c(f"mul i64 {c(f'sub i64 {end}, {begin}')}, %rows"), {})
    row, group = c("urem i64 %t, %rows"), c("udiv i64 %t, %rows")
    column = c(f"mul i64 {c(f'add i64 {begin}, {group}')}, {isa.lanes}")
    x = c.at(x_kind, "%x", c(f"add i64 %first, {c(f'mul i64 {row}, %stride')}"))
    w = c.at("i16", "%weight", c(f"mul i64 {column}, %ins"))
    out = c.at(out_kind, "%out", c(f"add i64 {c(f'add i64 %into, {column}')}, {c(f'mul i64 {row}, %outs')}"))
    c.do(f"call void @dots_{what}_{kind}(ptr {x}, ptr {w}, i64 %ins, ptr {out})")
    c.end()
    return taken(c)


def _norm(isa: Instructions, kind: str) -> str:
    """Each row divided by the root of its mean square, times a weight: PyTorch's own is eight operators in bfloat16."""
    c = entered(isa, f"norm_{kind}", NORM_ARGUMENTS, _NUMBERS)
    shared_out(c, "%rows")
    place = c("mul i64 %i, %ins")
    row, out = c.at(kind, "%x", place), c.at(kind, "%out", place)
    vectors = c(f"udiv i64 %ins, {c.lanes}")
    c.loop("m", vectors, {"%total": (c.floats, "zeroinitializer")})
    x = c.values(kind, row, "%m")
    c.fma(x, x, "%total", "%total.next")
    c.end()
    total = c(f"call reassoc float @llvm.vector.reduce.fadd.v{c.lanes}f32(float 0.0, {c.floats} %total.next)")
    mean = c(f"fdiv float {total}, {c('uitofp i64 %ins to float')}")
    mean = c(f"fadd float {mean}, {c.load('float', '%eps')}")
    size = c(f"call float @llvm.sqrt.f32(float {mean})")
    share = c.splat("float", c(f"fdiv float 1.0, {size}"))
    c.loop("n", vectors, {})
    y = c(f"fmul {c.floats} {c.values(kind, row, '%n')}, {share}")
    y = c(f"fmul {c.floats} {y}, {c.values(kind, '%weight', '%n')}")
    c.store(f"<{c.lanes} x {kind}>", c.halved(y) if kind == "i16" else y, out, "%n")
    c.end()
    return taken(c)

"""What `panels_code` and `attention` write functions of LLVM's language with: a CPU's instructions, and lines of one
function."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

PANEL = 64  # outputs side by side
_AHEAD = 2048  # bytes


@dataclass(frozen=True)
class Instructions:
    """What a CPU has.  lanes: 32-bit numbers in a register.  dot: the intrinsic of VNNI, None without.  rows, vectors:
    of a tile, whose sums stay in registers; rows_4: the same in 4 bits, which need a second sum."""

    lanes: int
    dot: str | None
    rows: int
    rows_4: int
    vectors: int

    @property
    def most(self) -> int:
        """The largest activation beside weights of 8 bits."""
        return 127 if self.dot else 64

    @property
    def passes(self) -> int:
        """Tiles in a panel."""
        return PANEL // (self.lanes * self.vectors)


AVX512_VNNI = Instructions(16, "llvm.x86.avx512.vpdpbusd.512", rows=6, rows_4=3, vectors=4)
AVX_VNNI = Instructions(8, "llvm.x86.avx512.vpdpbusd.256", rows=4, rows_4=3, vectors=2)
AVX2 = Instructions(8, None, rows=4, rows_4=3, vectors=2)


class Code:
    """Lines of LLVM's language, one function."""

    def __init__(self, isa: Instructions, head: str):
        self.isa, self.lanes = isa, isa.lanes
        self.floats, self.ints = f"<{isa.lanes} x float>", f"<{isa.lanes} x i32>"
        self.shorts = f"<{2 * isa.lanes} x i16>"
        self.lines = [f"define {head} #0 {{", "entry:"]

    def __call__(self, expression: str, name: str = "") -> str:
        """A value that this expression computes."""
        name = name or f"%v{len(self.lines)}"
        self.lines.append(f"  {name} = {expression}")
        return name

    def do(self, line: str) -> None:
        self.lines.append(f"  {line}")

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")

    def at(self, kind: str, pointer: str, index: object) -> str:
        return self(f"getelementptr {kind}, ptr {pointer}, i64 {index}")

    def rows(self, count: int, kind: str, first: str, stride: str) -> list[str]:
        """Where each of some rows begins."""
        found = [first]
        for _ in range(count - 1):
            found.append(self.at(kind, found[-1], stride))
        return found

    def fields(self, pointer: str, names: Sequence[str], numbers: Collection[str]) -> None:
        """Read values of 64 bits, one behind the other: those in `numbers`, and pointers."""
        for n, name in enumerate(names):
            self(f"load {'i64' if name in numbers else 'ptr'}, ptr {self.at('i64', pointer, n)}", f"%{name}")

    def load(self, kind: str, pointer: str, index: object = 0) -> str:
        return self(f"load {kind}, ptr {self.at(kind, pointer, index)}, align 1")

    def store(self, kind: str, value: str, pointer: str, index: object = 0) -> None:
        self.do(f"store {kind} {value}, ptr {self.at(kind, pointer, index)}, align 1")

    def splat(self, kind: str, value: str) -> str:
        vector = f"<{self.lanes} x {kind}>"
        one = self(f"insertelement {vector} poison, {kind} {value}, i64 0")
        return self(f"shufflevector {vector} {one}, {vector} poison, {self.ints} zeroinitializer")

    def prefetched(self, pointer: str, index: str) -> None:
        """All of a panel that comes some steps later: a pass reads a part of each of its lines, which the CPU's own
        prefetching does not follow."""
        for line in range(PANEL // 16):
            ahead = self(f"add i64 {index}, {(_AHEAD + 64 * line) // (4 * self.lanes)}")
            self.do(f"call void @llvm.prefetch.p0(ptr {self.at(self.ints, pointer, ahead)}, i32 0, i32 3, i32 1)")

    def widened(self, pointer: str, index: object) -> str:
        """Bytes as 32-bit numbers."""
        return self(f"zext <{self.lanes} x i8> {self.load(f'<{self.lanes} x i8>', pointer, index)} to {self.ints}")

    def all(self, value: object, kind: str = "i32") -> str:
        """A vector of one number."""
        lanes = 2 * self.lanes if kind == "i16" else self.lanes
        return f"<{', '.join([f'{kind} {value}'] * lanes)}>"

    def halved(self, x: str) -> str:
        """float32 as bfloat16, rounded to the nearest even: LLVM's own conversion may call a library's."""
        bits = self(f"bitcast {self.floats} {x} to {self.ints}")
        last = self(f"and {self.ints} {self(f'lshr {self.ints} {bits}, {self.all(16)}')}, {self.all(1)}")
        bits = self(f"add {self.ints} {self(f'add {self.ints} {bits}, {last}')}, {self.all(0x7FFF)}")
        return self(f"trunc {self.ints} {self(f'lshr {self.ints} {bits}, {self.all(16)}')} to <{self.lanes} x i16>")

    def doubled(self, x: str) -> str:
        """bfloat16 as float32."""
        bits = self(f"shl {self.ints} {self(f'zext <{self.lanes} x i16> {x} to {self.ints}')}, {self.all(16)}")
        return self(f"bitcast {self.ints} {bits} to {self.floats}")

    def values(self, kind: str, pointer: str, index: object) -> str:
        """A vector of activations, or of 16-bit weights, as float32."""
        x = self.load(f"<{self.lanes} x {kind}>", pointer, index)
        if kind == "half":
            return self(f"fpext <{self.lanes} x half> {x} to {self.floats}")
        return x if kind == "float" else self.doubled(x)

    def sums(self, vectors: list[str]) -> str:
        """The sum of each of as many vectors as they have lanes, side by side: neighbours are added, of two vectors at
        a time."""
        while len(vectors) > 1:
            halves = []
            for odd in range(2):
                mask = ", ".join(f"i32 {2 * lane + odd}" for lane in range(self.lanes))
                pairs = zip(vectors[::2], vectors[1::2], strict=True)
                kind, mask = self.floats, f"{self.ints} <{mask}>"
                halves.append([self(f"shufflevector {kind} {a}, {kind} {b}, {mask}") for a, b in pairs])
            vectors = [self(f"fadd {self.floats} {a}, {b}") for a, b in zip(*halves, strict=True)]
        return vectors[0]

    def dot(self, total: str, unsigned: str, signed: str, name: str = "") -> str:
        return self(f"call {self.ints} @dot({self.ints} {total}, {self.ints} {unsigned}, {self.ints} {signed})", name)

    def fma(self, x: str, y: str, z: str, name: str = "") -> str:
        kind = self.floats
        return self(f"call {kind} @llvm.fma.v{self.lanes}f32({kind} {x}, {kind} {y}, {kind} {z})", name)

    def loop(self, name: str, count: str, totals: dict[str, tuple[str, str]]) -> None:
        """Begin a loop over %NAME from 0 to `count`, at least once. totals: value -> its kind and its first value; the
        loop computes VALUE.next."""
        before = next(line[:-1] for line in reversed(self.lines) if line.endswith(":"))
        self.do(f"br label %{name}.loop")
        self.label(f"{name}.loop")
        self.do(f"%{name} = phi i64 [0, %{before}], [%{name}.next, %{name}.loop]")
        for value, (kind, first) in totals.items():
            self.do(f"{value} = phi {kind} [{first}, %{before}], [{value}.next, %{name}.loop]")
        self._innermost = name, count

    def end(self) -> None:
        """End the innermost loop, which holds no other."""
        name, count = self._innermost
        self.do(f"%{name}.next = add i64 %{name}, 1")
        self.do(f"%{name}.more = icmp ult i64 %{name}.next, {count}")
        self.do(f"br i1 %{name}.more, label %{name}.loop, label %{name}.end")
        self.label(f"{name}.end")

    def text(self) -> str:
        return "\n".join([*self.lines, "  ret void", "}", ""])


def entered(isa: Instructions, name: str, arguments: Sequence[str], numbers: Collection[str]) -> Code:
    """A function that a thread runs, its arguments read."""
    c = Code(isa, f"void @{name}(ptr %arguments)")
    c.fields("%arguments", arguments, numbers)
    return c


def shared_out(c: Code, count: str) -> None:
    """Begin what is done for each %i below `count` by the thread that comes first; ends with `taken`."""
    c.do("br label %take")
    c.label("take")
    c("atomicrmw add ptr %next, i64 1 monotonic", "%i")
    c.do(f"br i1 {c(f'icmp ult i64 %i, {count}')}, label %work, label %leave")
    c.label("work")


def taken(c: Code) -> str:
    c.do("br label %take")
    c.label("leave")
    return c.text()

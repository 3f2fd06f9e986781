"""Records of speed: benchmarks/results.json, and the tables of docs/speed.md that are made of it."""

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.models import WINDOW
from training.loop import cores

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results.json"
DOCS = ROOT / "docs" / "speed.md"
START, END = "<!-- measured:start -->\n", "<!-- measured:end -->"


def machine(device: str) -> dict:
    """Where this was measured."""
    cpu = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    amx = torch.cpu.get_capabilities().get("amx_bf16", False)
    return {
        "name": torch.cuda.get_device_name() if device == "cuda" else cpu.partition(":")[2].strip() or cpu,
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9),
        "instructions": torch.backends.cpu.get_cpu_capability() + (" and AMX" if amx else ""),
        "torch": torch.__version__,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def record(part: str, setting: Mapping, measured: Mapping) -> dict:
    """What was measured of a part, with the setting, the machine, the commit and the date."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "part": part,
        **setting,
        "machine": machine(setting["device"]),
        "commit": commit.stdout.strip(),
        "date": datetime.date.today().isoformat(),
        **measured,
    }


def keep(new: dict, file: Path) -> None:
    """Put a record into a results file, in the place of an older one of the same thing."""
    records = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    records = [old for old in records if _what(old) != _what(new)] + [new]
    file.write_text(json.dumps(sorted(records, key=_what), indent=1) + "\n", encoding="utf-8")


def _what(record: Mapping) -> tuple[str, ...]:
    return record["shape"], record["device"], _where(record), record["dtype"], record["part"]


def _where(record: Mapping) -> str:
    """The machine as a heading. CPUs of one name differ in their instructions."""
    machine = record["machine"]
    return machine["name"] if record["device"] == "cuda" else f"{machine['name']} with {machine['instructions']}"


# ------------------------------------------------------------------------------------------------------- docs


def tables(records: list[dict]) -> str:
    """The results as Markdown, one section per shape, machine and precision."""
    groups: dict[tuple, dict[str, dict]] = {}
    for entry in records:
        groups.setdefault(_what(entry)[:4], {})[entry["part"]] = entry
    sections = [_section(parts) for parts in groups.values()]
    if not any(entry["device"] == "cuda" for entry in records):
        sections.insert(0, "**Nothing was measured on a CUDA device yet**: the code is there, and the command.")
    return "".join(f"{section}\n\n" for section in sections)


def _section(parts: Mapping[str, dict]) -> str:
    any_ = next(iter(parts.values()))
    where = any_["machine"]
    dates = sorted({entry["date"] for entry in parts.values()})
    commits = sorted({entry["commit"] for entry in parts.values()})
    lines = [
        f"### {any_['shape']}, {any_['dtype']}, on {_where(any_)}",
        "",
        f"{where['cores']} cores ({where['threads']} threads), {where['memory_gb']} GB, "
        f"torch {where['torch']}; {' and '.join(dates)}, commit {', '.join(commits)}.",
    ]
    if found := [f"| {' | '.join(row)} |" for part, entry in parts.items() for row in _rows(part, entry)]:
        lines += ["", "| what | measured | goal |", "|---|---|---|", *found]
    if "table" in parts:
        rows = parts["table"]["rows"]
        seconds_ = {(row["variants"], row["windows"]): row["seconds"] for row in rows}
        windows = sorted({row["windows"] for row in rows})
        counts = sorted({row["variants"] for row in rows})
        lines += [
            "",
            f"Seconds for windows of {WINDOW} s, {parts['table']['tokens']} tokens each:",
            "",
            "| windows | " + " | ".join(f"{count} variant{'s' * (count > 1)}" for count in counts) + " |",
            "|---" * (len(counts) + 1) + "|",
            *(f"| {w} | " + " | ".join(f"{seconds_[count, w]:.2f}" for count in counts) + " |" for w in windows),
        ]
    return "\n".join(lines)


def _rows(part: str, entry: Mapping) -> list[tuple[str, str, str]]:
    """(what, measured, goal) of one part; the goals are for the 3b shape on a GPU and the 250m shape on two cores."""
    goal = {("3b", "cuda"): 0, ("250m", "cpu"): 1}.get((entry["shape"], entry["device"]), 2)
    match part:
        case "clip":
            seconds_ = f"({entry['ours_s']:.2f} s, {entry['reference_s']:.2f} s)"
            step = f"{entry['step_over_read']:.1f} × reading the weights once ({1000 * entry['step_s']:.1f} ms)"
            return [
                (f"three variants of one {WINDOW} s clip, {entry['tokens']} tokens each, end to end",
                 f"{entry['speed_up']:.1f} × {_reference(entry)} {seconds_}", ("≥ 15 ×, < 1 s", "≥ 2 ×", "")[goal]),
                ("one decoding step, three variants", step, ("≤ 2 ×", "", "")[goal]),
            ]  # fmt: skip
        case "batch":
            what = f"one variant, {entry['windows']} windows of {WINDOW} s in a batch"
            return [(what, f"{entry['real_time']:.0f} × real time", ("≥ 1000 ×", "", "")[goal])]
        case "memory":
            what = "peak memory over the base's own weights, three variants"
            value = f"{_over_base(entry)}; {_reference(entry)} {_over_base(entry, 'reference_')}"
            return [(what, value, ("≤ 3 GB", "≤ 15 %", "")[goal])]
        case "tokens":
            same = ", ".join(f"{name} {share:.0%}" for name, share in entry["same"].items())
            return [("same tokens as the baseline (float32, greedy)", same, ("all", "all", "")[goal])]
        case "start":
            what = f"from nothing to three transcripts of {entry['clip_s']:g} s, {entry['tokens']} tokens each"
            first = f"{entry['load_s']:.1f} s to load, then {entry['first_s']:.1f} s ({entry['again_s']:.1f} s again)"
            return [(what, f"{first}; {_peak(entry)}", "")]
        case "long":
            what = f"{entry['clip_s'] / 60:.0f} minutes by three variants, {entry['tokens']} tokens for each segment"
            pace = f"all after {entry['ours_s']:.0f} s ({entry['clip_s'] / entry['ours_s']:.1f} × real time)"
            return [(what, f"first text after {entry['first_s']:.1f} s, {pace}; {_peak(entry)}", "")]
        case "train":
            what = f"a step of SFT on {entry['batch']} clips of {WINDOW} s with {entry['tokens']} tokens each"
            return [(what, f"{entry['step_s']:.1f} s; {_peak(entry)}", "")]
    return []


def _reference(entry: Mapping) -> str:
    """It computes in what we do, and has its weights in that too."""
    dtype = entry.get("reference_dtype", entry["dtype"])
    return "the baseline" + f" in {dtype}" * (dtype != entry["dtype"])


def _over_base(entry: Mapping, whose: str = "") -> str:
    over, base = entry[f"{whose}over_base_bytes"], entry.get(f"{whose}base_bytes", entry["base_bytes"])
    return f"{over / 1e9:.2f} GB over {base / 1e9:.2f} GB ({entry[f'{whose}over_base']:.1%})"


def _peak(entry: Mapping) -> str:
    whose = ""
    if entry["device"] == "cuda":
        whose = " of the GPU's memory" if entry["part"] == "train" else " of the host's memory"
    return f"{entry['peak_bytes'] / 1e9:.1f} GB{whose} at the peak"


def write_docs() -> None:
    text = DOCS.read_text(encoding="utf-8")
    before, rest = text.split(START)
    records = json.loads(RESULTS.read_text(encoding="utf-8"))
    DOCS.write_text(before + START + tables(records) + END + rest.split(END, 1)[1], encoding="utf-8")

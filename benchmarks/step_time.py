"""How long a private step takes, and how much memory, against the same step without privacy and against Opacus.

    python benchmarks/step_time.py [--sizes small,medium] [--repeats 20] [--turns 2] [--variants "plain;ours"]
    python benchmarks/step_time.py --device cuda --sizes small,medium,melloddy --precision bfloat16

Every variant runs in a process of its own, on the same batch and from the same weights, and in turns, so that a machine
that slows down does so for all. Of each the best and the median time are told, of the gradients alone and of whole
steps; and its peak memory beyond what the process held before the network was made, and beyond the parameters. Then
the ratios, each against the fastest of the variants without privacy, or of a named other variant to ours.

What is compared is compared twice: our sums at a clip of infinity with the gradient without privacy, and at the clip of
the measurement with Opacus's.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from step_variants import PLAIN, VARIANTS, Ours, Problem, make_batch

from pharma_fl.privacy.noise import SystemNoise

# bits, hidden, tasks, rows
SIZES = {
    "small": (8_192, (256,), 200, 256),
    "medium": (32_768, (2_000,), 3_000, 2_000),
    "melloddy": (32_768, (6_000,), 2_890, 6_805),
}
CLIPPING_NORM = 2.9
"""About the median norm of a record's gradient, at every size."""
MOST_SECONDS = 40.0
"""After so many seconds of one measurement three repeats are enough."""
MOST_HOOKS = 8 << 30
"""Opacus's hooks are run where one gradient a record takes no more bytes than that."""

# Floor on an H100 SXM: nothing but memory traffic at the bandwidth of its data sheet.
H100_BYTES_PER_SECOND = 3.35e12

HOOKS, GHOST, GHOST_SPARSE = "Opacus hooks, dense", "Opacus ghost, dense", "Opacus ghost, sparse"
SPARSECHEM, TOUCHED = "SparseChem-like", "plain, touched rows"

# What is divided, of which variant, by that of which other; and what it should be at most or at least.
RATIOS: tuple[tuple[str, str, str, dict[str, float] | float | None, str], ...] = (
    ("gradient", "ours", "plain", 1.05, "at most"),
    ("step", "ours", "plain", {"cpu": 1.35, "cuda": 1.15}, "at most"),
    ("step less noise", "ours", "plain", None, ""),
    ("memory", "ours", "plain", 1.1, "at most"),
    ("gradient memory", "ours", "plain", None, ""),
    ("gradient", HOOKS, "ours", {"cpu": 100}, "at least"),
    ("step", HOOKS, "ours", None, ""),
    ("gradient", GHOST, "ours", 2, "at least"),
    ("step", GHOST, "ours", None, ""),
    ("gradient", GHOST_SPARSE, "ours", 2, "at least"),
    ("step", GHOST_SPARSE, "ours", None, ""),
    ("memory", GHOST_SPARSE, "ours", None, ""),
    ("gradient", "plain", SPARSECHEM, 1, "at most"),
    ("step", "plain", SPARSECHEM, 1, "at most"),
    ("step", "ours", SPARSECHEM, None, ""),
    ("step", "ours", TOUCHED, None, ""),
)
FIGURES = {
    "gradient": ("gradient_ms", "gradient_median_ms"),
    "step": ("step_ms", "step_median_ms"),
    "step less noise": ("quiet_ms", "quiet_median_ms"),
    "memory": ("bytes", "bytes"),
    "gradient memory": ("gradient_bytes", "gradient_bytes"),
}


# One variant, in its own process.


class Memory:
    """Peak memory since `begin`, in bytes: resident set, or what PyTorch allocated on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._before = self._now()

    def begin(self) -> None:
        """Forget the peak of what came before, such as reading and transposing weights."""
        tidy()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def beyond(self, parameters: int) -> int:
        peak = torch.cuda.max_memory_allocated() if self._cuda else status("VmHWM")
        return peak - self._before - parameters

    def _now(self) -> int:
        tidy()
        return torch.cuda.memory_allocated() if self._cuda else status("VmRSS")


def tidy() -> None:
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        # What the allocator keeps for later would hide as much of a variant's own use.
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) << 10
    raise KeyError(key)


def timed(act: Callable[[], object], device: torch.device, repeats: int, warm_up: int) -> list[float]:
    """Return seconds of each repeat."""
    seconds: list[float] = []
    begun = time.perf_counter()
    for number in range(warm_up + repeats):
        wait(device)
        start = time.perf_counter()
        act()
        wait(device)
        if number >= warm_up:
            seconds.append(time.perf_counter() - start)
        if time.perf_counter() - begun > MOST_SECONDS and len(seconds) >= 3:
            break
    return seconds


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def problem_of(arguments: argparse.Namespace, size: str) -> Problem:
    bits, hidden, tasks, rows = SIZES[size]
    return Problem(
        bits=bits,
        hidden=arguments.hidden or hidden,
        tasks=tasks,
        batch=make_batch(bits, tasks, rows, seed=7).to(torch.device(arguments.device)),
        norm=CLIPPING_NORM,
        precision=arguments.precision,
        kernel=arguments.kernel,
    )


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    problem = problem_of(arguments, arguments.sizes[0])
    device = problem.device
    # Libraries, threads and handles are not the variant's: let a tiny one load them.
    square = torch.ones(512, 512, device=device)
    (square @ square).sum().item()
    tiny = make_batch(256, 8, 4, seed=7).to(device)
    for _ in range(2):
        VARIANTS[arguments.child](
            replace(problem, bits=256, hidden=(8,) * len(problem.hidden), tasks=8, batch=tiny)
        ).step()
    memory = Memory(device)
    variant = VARIANTS[arguments.child](problem)
    parameters = sum(value.numel() * value.element_size() for value in variant.network.parameters())
    memory.begin()
    variant.gradient()
    if arguments.sums:
        store(variant.sums(), arguments.sums, "clipped")
        memory.begin()
    found: dict[str, Any] = {"parameter_bytes": parameters}
    found["gradient"] = timed(variant.gradient, device, arguments.repeats, arguments.warm_up)
    found["gradient_bytes"] = memory.beyond(parameters)
    found["step"] = timed(variant.step, device, arguments.repeats, arguments.warm_up)
    found["bytes"] = memory.beyond(parameters)
    if isinstance(variant, Ours):
        found |= more_of_ours(variant, arguments)
    return found


def more_of_ours(variant: Ours, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time noise alone, and store the sums that nothing clips."""
    problem, noise = variant.problem, SystemNoise()
    device = problem.device
    tensors = list(variant.into.values())

    def ours() -> None:
        for tensor in tensors:
            noise.add_normal(tensor, 1.0)

    def opacus() -> None:
        for tensor in tensors:
            tensor.normal_(0.0, 1.0)

    found: dict[str, Any] = {
        "noise": timed(ours, device, arguments.repeats, 1),
        "normal_": timed(opacus, device, arguments.repeats, 1),
        "block": variant.mechanism.physical_batch,
        "kernel": variant.network.trunk.input.kernel,
    }
    if arguments.sums:
        variant = Ours(problem)
        variant.gradient()
        found["below"] = variant.below / problem.rows
        with variant.unclipped():
            variant.gradient()
        store(variant.sums(), arguments.sums, "unclipped")
    return found


def store(sums: dict[str, torch.Tensor], folder: Path, name: str) -> None:
    for key, value in sums.items():
        np.save(folder / f"{name}-{key}.npy", value.detach().float().cpu().numpy())


# All variants, and what they amount to.


def run_child(arguments: argparse.Namespace, size: str, variant: str, sums: Path | None) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", variant, "--sizes", size]
    for option in ("device", "precision", "kernel", "repeats", "warm_up"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    if arguments.hidden:
        command += ["--hidden", ",".join(map(str, arguments.hidden))]
    if sums is not None:
        sums.mkdir()
        command += ["--sums", str(sums)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this very file
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def run_size(arguments: argparse.Namespace, size: str) -> dict[str, Any]:
    bits, hidden, tasks, rows = SIZES[size]
    hidden = arguments.hidden or hidden
    widths = [bits, *hidden, tasks]
    parameters = sum((a + 1) * b for a, b in itertools.pairwise(widths))
    print(
        f"\n{size}: {bits:,} bits, hidden {', '.join(f'{h:,}' for h in hidden)}, {tasks:,} tasks, batch {rows:,}; "
        f"{parameters:,} parameters, {parameters * 4 >> 20:,} MiB; {arguments.device}, {arguments.precision}"
    )
    names = [name for name in VARIANTS if wanted(name, arguments.variants)]
    results: dict[str, Any] = {"parameters": parameters, "variants": {}}
    if "Opacus hooks, dense" in names and 4 * parameters * rows > MOST_HOOKS:
        names.remove("Opacus hooks, dense")
        results["hooks_bytes"] = 4 * parameters * rows
        print(f"Opacus hooks, dense: would need {4e-9 * parameters * rows:,.0f} GB for the records' gradients; not run")
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as place:
        sums = Sums(Path(place))
        for turn, name in itertools.product(range(arguments.turns), names):
            found = run_child(arguments, size, name, None if turn else sums.folder(name))
            if "failed" in found:
                print(f"{name}: {found['failed']}")
                results["variants"].setdefault(name, found)
                continue
            runs[name].append(found)
            if not turn:
                sums.compare(name)
    runs = {name: found for name, found in runs.items() if found}
    results["differences"] = sums.differences
    results["variants"] |= {name: summary(found) for name, found in runs.items()}
    report(results, arguments.device)
    if arguments.device == "cuda":
        report_floor(results, problem_of(arguments, size))
    return results


def wanted(name: str, chosen: list[str]) -> bool:
    return not chosen or any(name == part or (part == "plain" and name in PLAIN) for part in chosen)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Take the best of several processes: what disturbs one of them is not the variant's."""
    found: dict[str, Any] = {"parameter_bytes": runs[0]["parameter_bytes"]}
    for key in ("gradient", "step", "noise", "normal_"):
        if key in runs[0]:
            found[f"{key}_ms"] = 1e3 * min(min(run[key]) for run in runs)
            found[f"{key}_median_ms"] = 1e3 * min(statistics.median(run[key]) for run in runs)
    for end in ("ms", "median_ms"):
        found[f"quiet_{end}"] = found[f"step_{end}"] - found.get(f"noise_{end}", 0.0)
    for key in ("gradient_bytes", "bytes"):
        found[key] = min(run[key] for run in runs)
    return found | {key: runs[0][key] for key in ("block", "kernel", "below") if key in runs[0]}


class Sums:
    """What variants stored, and relative differences between it, over all parameters together.

    Variants without privacy are compared with the first of them, as is ours without a clip; Opacus's with ours.
    """

    def __init__(self, place: Path) -> None:
        self.differences: dict[str, float] = {}
        self._place, self._base, self._ours = place, "", ""

    def folder(self, name: str) -> Path:
        return self._place / name

    def compare(self, name: str) -> None:
        if name == "ours":
            self._ours = name
            if self._base:
                self._put(f"ours unclipped, {self._base}", (name, "unclipped"), (self._base, "clipped"))
            return
        if name.startswith("Opacus"):
            if self._ours:
                self._put(f"ours, {name}", (self._ours, "clipped"), (name, "clipped"))
        elif self._base:
            self._put(f"{name}, {self._base}", (name, "clipped"), (self._base, "clipped"))
        else:
            self._base = name
            return
        shutil.rmtree(self.folder(name))

    def _put(self, label: str, one: tuple[str, str], other: tuple[str, str]) -> None:
        squares = np.zeros(2)
        for path in sorted(self.folder(other[0]).glob(f"{other[1]}-*.npy")):
            b = np.load(path, mmap_mode="r")
            a = np.load(self.folder(one[0]) / path.name.replace(other[1], one[1], 1), mmap_mode="r")
            squares += np.square(a - b, dtype=np.float64).sum(), np.square(b, dtype=np.float64).sum()
        self.differences[label] = float(np.sqrt(squares[0] / squares[1]))


def report(results: dict[str, Any], device: str) -> None:
    variants = {name: found for name, found in results["variants"].items() if "failed" not in found}
    print(f"{'':26}{'gradient, ms':>20}{'whole step, ms':>20}{'MiB beyond parameters':>26}")
    print(f"{'':26}" + f"{'best':>10}{'median':>10}" * 2 + f"{'gradient':>13}{'step':>13}")
    for name, found in variants.items():
        times = [found[key] for key in ("gradient_ms", "gradient_median_ms", "step_ms", "step_median_ms")]
        sizes = [found[key] / (1 << 20) for key in ("gradient_bytes", "bytes")]
        print(f"{name:26}" + "".join(f"{t:10.1f}" for t in times) + "".join(f"{s:13,.0f}" for s in sizes))
    if ours := variants.get("ours"):
        print(
            f"noise over all parameters: ours {ours['noise_ms']:.1f} ms (median {ours['noise_median_ms']:.1f}), "
            f"torch's normal_ {ours['normal__ms']:.1f} ms (median {ours['normal__median_ms']:.1f})"
        )
        print(
            f"blocks of {ours['block']:,} rows; kernel {ours['kernel']}; "
            f"{1 - ours['below']:.0%} of the records were clipped"
        )
    for pair, value in results["differences"].items():
        print(f"relative difference of sums: {pair}: {value:.1e}")
    results["ratios"] = ratios(variants, device)
    for found in results["ratios"]:
        verdict = "" if found["met"] is None else f"   goal {found['bound']} {found['goal']:g}"
        verdict += "" if found["met"] is None else ": met" if found["met"] else ": missed"
        figures = f"{found['best']:8.3f}" + ("" if "memory" in found["of"] else f"   by medians {found['median']:8.3f}")
        print(f"{found['of']:16}{found['name']:40}{figures}{verdict}")


def ratios(variants: dict[str, Any], device: str) -> list[dict[str, Any]]:
    """Form the ratios whose variants were run."""
    figures = dict(variants)
    plain = [found for name, found in variants.items() if name in PLAIN]
    if plain:
        # The fastest in each figure, and the memory of the one whose step is fastest.
        quickest = min(plain, key=lambda one: one["step_ms"])
        times = {key: min(one[key] for one in plain) for pair in list(FIGURES.values())[:3] for key in pair}
        figures["plain"] = quickest | times
    found = []
    for what, one, other, goals, bound in RATIOS:
        if one not in figures or other not in figures:
            continue
        by_best, by_median = (figures[one][key] / figures[other][key] for key in FIGURES[what])
        goal = goals.get(device) if isinstance(goals, dict) else goals
        met = None if goal is None else by_best <= goal if bound == "at most" else by_best >= goal
        found.append(
            {"of": what, "name": f"{one} / {other}", "best": by_best, "median": by_median}
            | {"goal": goal, "bound": bound, "met": met}
        )
    return found


def report_floor(results: dict[str, Any], problem: Problem) -> None:
    """Print what memory traffic alone would take on an H100, by dp.md section 8; no arithmetic is counted."""
    x, cells, hidden, rows = problem.batch.x, problem.batch.classes, problem.hidden, problem.rows
    middle = sum(a * b for a, b in itertools.pairwise(hidden))
    parameters = results["parameters"]
    bytes_of = {
        "forward, each set bit read": 4 * len(x.indices) * hidden[0],
        "weight gradient, each set bit read and all written": 4 * (len(x.indices) + problem.bits) * hidden[0],
        "middle layers, weights three times": 4 * 3 * middle,
        "heads at the labelled cells, four times": 4 * 4 * len(cells) * hidden[-1],
        "heads' gradient written": 4 * problem.tasks * hidden[-1],
        "SGD: gradient and weight read, weight written": 4 * 3 * parameters,
    }
    private = {
        "norms, backprops read": 4 * rows * sum(hidden),
        "clip, backprops read and written": 4 * 2 * rows * sum(hidden),
        "noise, sums read and written": 4 * 2 * parameters,
    }
    distinct = len(torch.unique(x.indices))
    saved = 4 * (len(x.indices) - distinct) * hidden[0]
    floors = {}
    for name, count in (bytes_of | private).items():
        print(f"floor on an H100: {name:52} {count / 1e9:8.2f} GB {1e3 * count / H100_BYTES_PER_SECOND:8.3f} ms")
    for name, count in (
        ("plain", sum(bytes_of.values())),
        ("plain, each row read once", sum(bytes_of.values()) - saved),
        ("private", sum((bytes_of | private).values())),
        ("private, each row read once", sum((bytes_of | private).values()) - saved),
    ):
        floors[name] = 1e3 * count / H100_BYTES_PER_SECOND
    results["h100_floor_ms"] = floors
    steps = {name: found["step_ms"] for name, found in results["variants"].items() if "step_ms" in found}
    for name, floor in floors.items():
        of = [steps["ours"]] if name.startswith("private") and "ours" in steps else []
        of = [min(steps[one] for one in PLAIN if one in steps)] if name.startswith("plain") else of
        print(
            f"floor on an H100, {name}: {floor:.2f} ms" + "".join(f"; measured / floor {ms / floor:.2f}" for ms in of)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=lambda text: text.split(","), help=f"of {', '.join(SIZES)}; on the CPU all but melloddy"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--kernel", choices=("gather", "dense", "fastest"), help="on the CPU gather, else fastest")
    parser.add_argument("--hidden", type=lambda text: tuple(int(part) for part in text.split(",")))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--turns", type=int, default=2, help="processes of each variant")
    parser.add_argument("--variants", type=lambda text: text.split(";"), default=[], help='as "plain;ours"; else all')
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--sums", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.kernel = arguments.kernel or ("gather" if arguments.device == "cpu" else "fastest")
    arguments.sizes = arguments.sizes or [s for s in SIZES if s != "melloddy" or arguments.device == "cuda"]
    if arguments.child:
        print(json.dumps(measure(arguments)))
        return
    threads = torch.get_num_threads()
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{threads} threads"
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {where}; load average {load:.1f} before the first run")
    if arguments.device == "cpu" and load > 0.5:
        print("Other processes are running. Threads that wait for each other then lose a multiple of what was taken.")
    results = {size: run_size(arguments, size) for size in arguments.sizes}
    settings = {key: getattr(arguments, key) for key in ("device", "precision", "repeats", "warm_up", "turns")}
    print(json.dumps(settings | {"torch": torch.__version__, "machine": where, "load": load, "sizes": results}))


if __name__ == "__main__":
    main()

"""What only a GPU can show of the private step: run it where one is, and put the figures into docs/results.md.

    python benchmarks/gpu_check.py
    python benchmarks/step_time.py --device cuda --sizes small,medium,melloddy --precision bfloat16

Checked: clipped sums on the GPU against those on the CPU, in float32 and bfloat16, with either kernel of the first
layer; that one record stays within the clip, and so does what its removal changes; in how large a block a row's bits do
not depend on its place; noise made there, its law and its speed; that what leaves under shared noise is what the CPU
would send; and that a batch too large for the memory falls back.
Exit code 1 where a check fails, 2 where there is no GPU. `--device cpu` tries the script itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.sparse as sp
import torch
from scipy.stats import kstest

from pharma_fl.config import ModelSettings
from pharma_fl.model.devices import ResidentRecords
from pharma_fl.model.fit import new_network
from pharma_fl.model.kernel_choice import choose_kernel
from pharma_fl.model.layers import SparseLinear
from pharma_fl.model.losses import network_losses
from pharma_fl.model.network import trunk_of
from pharma_fl.model.records import Records, TaskWeights
from pharma_fl.privacy.clip import Clip
from pharma_fl.privacy.clipping import clipped_gradients
from pharma_fl.privacy.dp_sgd import DpSgd
from pharma_fl.privacy.grid import grid_of
from pharma_fl.privacy.noise import SystemNoise
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.privacy.row_independence import independent_rows

CLIP = Clip(norm=0.1)
ROWS = 512


def make_records(n: int, bits: int, tasks: int) -> Records:
    rng = np.random.default_rng(0)
    chosen = [np.sort(rng.choice(bits, size=rng.integers(45, 101), replace=False)) for _ in range(n)]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in chosen])])
    x = sp.csr_array((np.ones(offsets[-1], np.float32), np.concatenate(chosen), offsets), shape=(n, bits))
    labelled = [np.sort(rng.choice(tasks, size=4, replace=False)) for _ in range(n)]
    places = np.arange(0, 4 * n + 1, 4)
    y = sp.csr_array((rng.integers(0, 2, 4 * n).astype(np.float32), np.concatenate(labelled), places), (n, tasks))
    nothing = sp.csr_array((n, 0), dtype=np.float32)
    return Records(
        x=x,
        classes=y,
        values=nothing,
        censor=nothing.copy(),
        binary=True,
        weights=TaskWeights(
            classes=torch.ones(tasks),
            values=torch.ones(0),
            censored=torch.ones(0),
            catalogue=torch.full((tasks,), -1),
        ),
    )


def sums(network: torch.nn.Module, source: object, rows: np.ndarray, precision: str) -> dict[str, torch.Tensor]:
    device = next(network.parameters()).device
    batch = source.batch(rows, ROWS)  # type: ignore[attr-defined]

    def losses() -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return network_losses(network, batch, weights=source.weights)  # type: ignore[attr-defined, arg-type]

    found = clipped_gradients(network, losses, CLIP, records=len(rows))
    return {name: value.double().cpu() for name, value in found.gradients.items()}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def norm(tensors: dict[str, torch.Tensor]) -> float:
    return float(torch.sqrt(sum((value.square().sum() for value in tensors.values()), torch.zeros(()))))


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: one[name] - other[name] for name in one}


def check_sums(figures: dict[str, object], device: torch.device) -> bool:
    records = make_records(400, 4096, 200)
    good = True
    for hidden in ((256,), (256, 128)):
        model = ModelSettings(input_bits=4096, hidden=hidden, activation="relu")
        on_cpu = new_network(model, records, 0)
        expected = sums(on_cpu, records, np.arange(400), "float32")
        network = new_network(model, records, 0).to(device)
        source = ResidentRecords(records, device)
        for precision in ("float32", "bfloat16"):
            for kernel in ("gather", "dense"):
                for layer in network.modules():
                    if isinstance(layer, SparseLinear):
                        layer.kernel, layer.dtype = kernel, getattr(torch, precision)  # type: ignore[assignment]
                found = sums(network, source, np.arange(400), precision)
                error = norm(apart(found, expected)) / norm(expected)
                alone = max(norm(sums(network, source, np.array([row]), precision)) for row in range(0, 400, 40))
                again = sums(network, source, np.arange(399, -1, -1), precision)
                moved = norm(apart(found, again)) / norm(found)
                removed = norm(apart(found, sums(network, source, np.delete(np.arange(400), 7), precision)))
                limit = (1e-5, 1e-5) if precision == "float32" else (1e-1, 1e-2)
                fine = (
                    error < limit[0] and alone <= CLIP.norm * (1 + limit[1]) and removed <= CLIP.norm * (1 + limit[1])
                )
                good &= fine
                print(
                    f"{'ok  ' if fine else 'FAIL'} {hidden} {precision} {kernel}: off the CPU by {error:.1e}, a record "
                    f"{alone / CLIP.norm:.5f} clips, one removed {removed / CLIP.norm:.5f}, other order {moved:.1e}"
                )
                figures[f"{hidden} {precision} {kernel}"] = {"error": error, "alone": alone, "removed": removed}
        network.float()
        rows = independent_rows(network, ROWS)
        print(f"     {hidden}: rows independent of their place in blocks of {rows}; kernel "
              f"{choose_kernel(network.trunk, rows=ROWS, precision='bfloat16')} in bfloat16")  # fmt: skip
        figures[f"{hidden} block"] = rows
    return good


def check_noise(figures: dict[str, object], device: torch.device) -> bool:
    tensor = torch.zeros(1 << 24, device=device)
    good, found = True, {}
    for name, noise in (("ChaCha20", SystemNoise()), ("Philox", SystemNoise(secure=False))):
        tensor.zero_()
        noise.add_normal(tensor, 2.0)
        drawn = tensor[:200_000].cpu().numpy().astype(np.float64)
        on_grid = bool((drawn / grid_of(2.0) % 1 == 0).all())
        p, wrong = kstest(drawn / 2.0, "norm").pvalue, kstest(drawn / 3.0, "norm").pvalue
        found[name] = nanoseconds(lambda noise=noise: noise.add_normal(tensor, 2.0), tensor, device)
        right = p > 1e-6 and wrong < 1e-9 and on_grid
        print(
            f"{'ok  ' if right else 'FAIL'} {name}: law p = {p:.3f}, wrong law p = {wrong:.1e}, on the grid: {on_grid}"
        )
        good = good and right
    found["PyTorch's own"] = nanoseconds(lambda: tensor.add_(torch.randn_like(tensor), alpha=2.0), tensor, device)
    print("     " + ", ".join(f"{name} {value:.3f} ns a normal" for name, value in found.items()))
    figures["noise"] = found
    return bool(good)


class Silent(SystemNoise):
    """Noise of nought, so that two steps can be compared."""

    def add_normal(self, tensor: torch.Tensor, std: float, scale: float = 1.0) -> None:  # noqa: ARG002
        super().add_normal(tensor, 0.0, scale)

    def add_discrete_gaussian(self, vector: np.ndarray, std: float) -> None:
        pass


def check_summed_step(figures: dict[str, object], device: torch.device) -> bool:
    """Whether what leaves under shared noise is what the CPU would send, to a few units of its grid."""
    records, vectors = make_records(ROWS, 4096, 200), []
    settings = ModelSettings(input_bits=4096, hidden=(256,))
    for place in (torch.device("cpu"), device):
        network = new_network(settings, records, 0).to(place)
        summed = [f"trunk.{name}" for name in sorted(trunk_of(network))]
        plan = PrivacyPlan(
            sample_rate=1.0, noise_multiplier=4.0, clipping_norm=0.1, expected_batch=float(ROWS), delta=1e-5, rounds=1,
            steps_per_round=1, noise_mode="shared", contributors=4, tolerated_colluders=1,
            summed_values=sum(value.numel() for value in trunk_of(network).values()),
        )  # fmt: skip
        source = ResidentRecords(records, place) if place.type == "cuda" else records
        mechanism = DpSgd(
            plan,
            network,
            torch.optim.SGD(network.parameters(), lr=0.1),
            record_losses=partial(network_losses, weights=source.weights),
            noise=Silent(),
            summed=summed,
        )
        vectors.append(mechanism.summed_step(source, lambda _: None).astype(np.float64))
    apart = float(np.abs(vectors[0] - vectors[1]).max())
    size = float(np.abs(vectors[0]).max())
    good = size > 1e3 and apart <= 2 + 1e-5 * size
    print(f"{'ok  ' if good else 'BAD '} summed step: {apart:g} units apart at most, values up to {size:g}")
    figures["summed_step_units_apart"] = apart
    return good


def nanoseconds(work: Callable[[], object], tensor: torch.Tensor, device: torch.device) -> float:
    """Return the time of ten calls, for each entry of the tensor and call."""
    wait(device)
    begun = time.perf_counter()
    for _ in range(10):
        work()
    wait(device)
    return (time.perf_counter() - begun) / 10 / tensor.numel() * 1e9


def check_memory(figures: dict[str, object], device: torch.device) -> bool:
    records = make_records(2000, 4096, 200)
    network = new_network(ModelSettings(input_bits=4096, hidden=(2048,)), records, 0).to(device)
    source = ResidentRecords(records, device)
    plan = PrivacyPlan(
        sample_rate=1.0, noise_multiplier=1.0, clipping_norm=1.0, expected_batch=2000.0, delta=1e-5, rounds=1,
        steps_per_round=1,
    )  # fmt: skip
    mechanism = DpSgd(
        plan,
        network,
        torch.optim.SGD(network.parameters(), lr=0.1),
        record_losses=partial(network_losses, weights=source.weights),
        noise=SystemNoise(),
    )
    mechanism.step(source)
    free, total = torch.cuda.mem_get_info(device)
    held = torch.empty(max(0, free - (48 << 20)), dtype=torch.uint8, device=device)
    before = mechanism.physical_batch
    torch.cuda.empty_cache()
    try:
        mechanism.step(source)
    except Exception as error:  # noqa: BLE001 - what it is is what the check tells
        print(f"     memory: {type(error).__name__}: {error}")
    del held
    print(f"     memory: physical batch {before} -> {mechanism.physical_batch} with 48 MiB free of {total >> 20} MiB")
    figures["physical_batch"] = [before, mechanism.physical_batch]
    return True


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--device", default="cuda:0")
    device = torch.device(arguments.parse_args().device)
    checks = [check_sums, check_noise, check_summed_step]
    name = "CPU"
    if device.type == "cuda":
        if not torch.cuda.is_available():
            print("There is no GPU here.")
            sys.exit(2)
        checks.append(check_memory)
        name = torch.cuda.get_device_name(device)
    print(name, "torch", torch.__version__)
    figures: dict[str, object] = {"device": name}
    good = [check(figures, device) for check in checks]
    print(json.dumps(figures))
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()

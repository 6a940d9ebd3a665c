"""How much `prepare` costs beyond the RDKit calls it needs, and how much memory it takes.

    python benchmarks/prepare.py [--molecules 4000] [--repeats 3] [--workers 2]
    python benchmarks/prepare.py --made 1000000

The first form takes molecules and measurements of ChEMBL 22 (folder PHARMA_FL_DATA, default ../shared/data) and times,
in turns, the whole pipeline with an empty cache and the bare RDKit calls on the same molecules with as many processes:
standardisation, fingerprint, and the scaffold that decides the fold. The second form makes that many simple compounds
with three measurements each, to see what memory a large table takes and what a second run costs.

Memory is of the whole process tree, twice: PSS, which counts a shared page once, and the sum of RSS, which counts it
for every process, mapped files included.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import itertools
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.MolStandardize import rdMolStandardize

from pharma_fl.config import Partner
from pharma_fl.data.folds import fold_scaffold
from pharma_fl.data.prepare import prepare

GENERATOR = rdFingerprintGenerator.GetMorganGenerator(radius=3, fpSize=32_000)
CLEANERS = (rdMolStandardize.MetalDisconnector(), rdMolStandardize.Normalizer(), rdMolStandardize.Reionizer())
T0 = "input_assay_id,assay_type,use_in_regression,is_binary,expert_threshold_1,expert_threshold_2,"
T0 += "expert_threshold_3,expert_threshold_4,expert_threshold_5,direction\n"


def enumerator() -> rdMolStandardize.TautomerEnumerator:
    made = rdMolStandardize.GetV1TautomerEnumerator()
    made.SetMaxTautomers(256)
    made.SetRemoveSp3Stereo(False)  # noqa: FBT003
    return made


TAUTOMERS = enumerator()


def bare(smiles: str) -> int:
    """Call RDKit as the standardisation, the fingerprint and the scaffold need it, and nothing else."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None or mol.GetNumAtoms() >= 100:
            return 0
        try:
            mol = rdMolStandardize.ChargeParent(mol)
            for atom in mol.GetAtoms():
                atom.SetIsotope(0)
            Chem.RemoveStereochemistry(mol)
            mol = TAUTOMERS.Canonicalize(mol)
            Chem.SanitizeMol(mol)
            mol = Chem.RemoveHs(mol)
            disconnector, normaliser, reioniser = CLEANERS
            mol = reioniser.reionize(normaliser.normalize(disconnector.Disconnect(mol)))
            Chem.AssignStereochemistry(mol, force=True, cleanIt=True)
            text = Chem.MolToSmiles(Chem.MolFromSmiles(Chem.MolToSmiles(mol)))
            bits = GENERATOR.GetCountFingerprint(Chem.MolFromSmiles(text)).GetNonzeroElements()
            fold_scaffold(text)
        except (RuntimeError, ValueError):
            return 0
        return len(bits)


def time_bare(smiles: list[str], workers: int) -> float:
    begun = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in pool.imap(bare, smiles, chunksize=32):
            pass
    return time.monotonic() - begun


def time_pipeline(folder: Path, workers: int) -> tuple[float, dict[str, int], dict[str, object]]:
    with peak_memory() as peak:
        begun = time.monotonic()
        manifest = prepare(Partner.load(folder / "partner.toml"), workers=workers)
        seconds = time.monotonic() - begun
    return seconds, peak, manifest


@contextlib.contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    peak = {"pss_mib": 0, "rss_mib": 0}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.25):
            for name, value in memory_of_tree(os.getpid()).items():
                peak[name] = max(peak[name], value)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def memory_of_tree(root: int) -> dict[str, int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    totals, waiting = {"pss_mib": 0, "rss_mib": 0}, [root]
    while waiting:
        process = waiting.pop()
        waiting += children.get(process, [])
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss:", "Rss:")):
                    totals[f"{line[:3].lower()}_mib"] += int(line.split()[1])
    return {name: value // 1024 for name, value in totals.items()}


def write_partner(folder: Path, t0: str, t1: Iterator[str], t2: Iterator[str]) -> None:
    folder.mkdir()
    (folder / "T0.csv").write_text(T0 + t0)
    for name, header, rows in (
        ("T1", "input_compound_id,input_assay_id,standard_qualifier,standard_value\n", t1),
        ("T2", "input_compound_id,smiles\n", t2),
    ):
        with (folder / f"{name}.csv").open("w") as file:
            file.write(header)
            file.writelines(rows)
    key = folder / "consortium.key"
    key.touch(mode=0o600)
    key.write_text("a benchmark\n")
    (folder / "partner.toml").write_text('name = "bench"\n[budget]\nepsilon = 1.0\n')


def chembl(count: int) -> tuple[list[str], list[str], list[str]]:
    """Return SMILES, rows of T2 and rows of T1 of that many compounds."""
    folder = Path(os.environ.get("PHARMA_FL_DATA", Path(__file__).parents[2] / "shared" / "data")) / "chembl22"
    with gzip.open(folder / "T2.csv.gz", "rt") as file:
        rows = random.Random(7).sample(list(csv.DictReader(file)), count)  # noqa: S311 - which ones, no secret
    ids = {row["input_compound_id"] for row in rows}
    with gzip.open(folder / "T1.csv.gz", "rt") as file:
        t1 = [line for line in itertools.islice(file, 1, None) if line.partition(",")[0] in ids]
    return [row["smiles"] for row in rows], [f"{row['input_compound_id']},{row['smiles']}\n" for row in rows], t1


def compare(count: int, repeats: int, workers: int) -> None:
    smiles, t2, t1 = chembl(count)
    t0 = "".join(f"{assay},OTHER,true,false,6.5,,,,,high\n" for assay in range(1, 673))
    ratios, rates, memory = [], [], {"pss_mib": 0, "rss_mib": 0}
    with tempfile.TemporaryDirectory() as place:
        for turn in range(repeats):
            plain = time_bare(smiles, workers)
            write_partner(Path(place) / str(turn), t0, iter(t1), iter(t2))
            whole, peak, _ = time_pipeline(Path(place) / str(turn), workers)
            again, _, _ = time_pipeline(Path(place) / str(turn), workers)
            memory = {name: max(value, peak[name]) for name, value in memory.items()}
            ratios.append(plain / whole)
            rates.append(count / whole)
            print(
                f"turn {turn + 1}: bare RDKit {plain:7.1f} s {count / plain:6.1f}/s   pipeline {whole:7.1f} s "
                f"{count / whole:6.1f}/s   ratio {plain / whole:.3f}   prepared again {again:.1f} s"
            )
    print(f"ratio of speeds, pipeline to bare RDKit: median {statistics.median(ratios):.3f}")
    print(f"peak memory of the process tree: {memory['pss_mib']} MiB PSS, {memory['rss_mib']} MiB summed RSS")
    result = {"molecules": count, "workers": workers, "ratio": statistics.median(ratios), "ratios": ratios}
    print(json.dumps(result | {"per_second": statistics.median(rates)} | memory))


RESIDUES = [
    f"{chain}{end}"
    for chain in ("", *("C" * n for n in range(1, 10)))
    for end in ["F", "Cl", "Br", "C", "OC", "SC", "C#N", "N(C)C", "C(F)(F)F", "OCC"]
]


def made_smiles(count: int) -> Iterator[str]:
    """Yield distinct pyridines with three residues, as they come from a table: without tautomers, quick to read."""
    triples = itertools.product(RESIDUES, repeat=3)
    for one, two, three in itertools.islice(triples, count):
        yield f"n1c({one})cc({two})c({three})c1"


def large(count: int, workers: int) -> None:
    numbered = enumerate(made_smiles(count), 1)
    values = random.Random(3)  # noqa: S311 - what the values are, no secret
    t0 = "".join(f"{assay},OTHER,true,false,6.5,,,,,high\n" for assay in range(1, 1001))
    t1 = (
        f"{n},{values.randrange(1, 1001)},=,{3 + 7 * values.random():.2f}\n"
        for n in range(1, count + 1)
        for _ in range(3)
    )
    with tempfile.TemporaryDirectory() as place:
        write_partner(Path(place) / "large", t0, t1, (f"{n},{smiles}\n" for n, smiles in numbered))
        first, peak, manifest = time_pipeline(Path(place) / "large", workers)
        again, peak_again, _ = time_pipeline(Path(place) / "large", workers)
        size = sum(path.stat().st_size for path in (Path(place) / "large" / "data").iterdir()) >> 20
    sizes = manifest["sizes"]
    print(f"{count:,} structures, {3 * count:,} measurements: {sizes}")
    print(f"first run  {first:8.1f} s   peak {peak['pss_mib']} MiB PSS, {peak['rss_mib']} MiB summed RSS")
    print(f"second run {again:8.1f} s   peak {peak_again['pss_mib']} MiB PSS, {peak_again['rss_mib']} MiB summed RSS")
    print(f"prepared folder: {size} MiB")
    print(
        json.dumps(
            {"made": count, "workers": workers, "seconds": first, "again_seconds": again, "folder_mib": size} | peak
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--made", type=int, help="make this many compounds instead")
    arguments = parser.parse_args()
    if arguments.made:
        large(arguments.made, arguments.workers)
    else:
        compare(arguments.molecules, arguments.repeats, arguments.workers)


if __name__ == "__main__":
    main()

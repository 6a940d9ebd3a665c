"""Small partners made on the spot, and the public vectors where they are present."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pharma_fl.config import Partner
from pharma_fl.data.compounds import looked_up
from pharma_fl.data.molecules import Recipe
from pharma_fl.data.probe import probe_molecules
from pharma_fl.data.structure_cache import FILE, StructureCache

T0_HEADER = (
    "input_assay_id,assay_type,use_in_regression,is_binary,expert_threshold_1,expert_threshold_2,"
    "expert_threshold_3,expert_threshold_4,expert_threshold_5,direction"
)
T0 = f"{T0_HEADER}\n1,ADME,false,true,,,,,,high\n2,OTHER,true,false,6,,,,,high\n3,ADME,true,false,-1,0,,,,low\n"
T1 = """input_compound_id,input_assay_id,standard_qualifier,standard_value
1,1,,1
1,2,=,6.5
2,1,=,-1
2,3,=,0
3,2,<,5
4,3,>,0.5
5,2,=,7
6,1,=,1
7,1,=,2
"""
T2 = """input_compound_id,smiles
1,CC(=O)Oc1ccccc1C(=O)O
2,CCO
3,c1ccc2ccccc2c1
4,[Na+].CC(=O)[O-]
5,CC(O)=O
6,not a molecule
7,CCN
8,CCCC
"""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    default = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("PHARMA_FL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set PHARMA_FL_DATA to the test data")
    return folder


@pytest.fixture(scope="session")
def vectors(shared_data: Path) -> Path:
    folder = shared_data / "tuner_vectors"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: the TUNER vectors are not there")
    return folder


@pytest.fixture(scope="session")
def probe_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe's structures, worked out once for all tests."""
    folder = tmp_path_factory.mktemp("probe")
    with StructureCache(folder, Recipe()) as cache:
        looked_up([one.smiles for one in probe_molecules()], cache, Recipe(), workers=2)
    return folder / FILE


@pytest.fixture
def make_partner(tmp_path: Path, probe_cache: Path) -> Callable[..., Partner]:
    """Write a partner's files and load it; any of them can be replaced."""

    def make(
        *, t0: str = T0, t1: str = T1, t2: str = T2, key: str = "secret of the tests\n", toml: str = ""
    ) -> Partner:
        for name, text in (("T0.csv", t0), ("T1.csv", t1), ("T2.csv", t2), ("consortium.key", key)):
            (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / "consortium.key").chmod(0o600)
        if not (tmp_path / "cache").exists():
            (tmp_path / "cache").mkdir()
            shutil.copy(probe_cache, tmp_path / "cache" / FILE)
        path = tmp_path / "partner.toml"
        path.write_text(f'name = "alpha"\n{toml}\n[budget]\nepsilon = 8.0\n', encoding="utf-8")
        return Partner.load(path)

    return make

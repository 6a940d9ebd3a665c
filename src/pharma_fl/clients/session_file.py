"""What a partner's state folder keeps of the setup of a run's secure sum: secrets, so for its owner alone."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from safetensors.numpy import load_file, save

from pharma_fl.atomic import write_atomic
from pharma_fl.model.weights import load_facts
from pharma_fl.secagg.keys import Advert
from pharma_fl.secagg.terms import Terms

_FILE = "secure-sum.safetensors"


@dataclass(frozen=True, kw_only=True)
class SessionFile:
    """The setup of one run, as far as it has come.

    Attributes
    ----------
    terms : Terms
    root : bytes
        The secret that all others of this partner follow from.
    own : Advert
        What it said of itself.
    adverts, digest : tuple of Advert, str
        The list that it has checked; empty before.
    bundles : dict
        Shares that it holds, by partner: its own, and after the setup everybody's.
    """

    terms: Terms
    root: bytes
    own: Advert
    adverts: tuple[Advert, ...] = ()
    digest: str = ""
    bundles: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every partner's shares are here."""
        return len(self.bundles) == self.terms.contributors

    def shown(self, adverts: Collection[Advert], digest: str, bundles: Mapping[str, bytes]) -> Self:
        """Return it with a checked list and the shares that are here."""
        return replace(self, adverts=tuple(adverts), digest=digest, bundles=dict(bundles))

    def save(self, folder: Path) -> None:
        """Replace the file in `folder`, durably."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        blobs = {"root": self.root} | {f"bundle/{name}": bundle for name, bundle in self.bundles.items()}
        for place, advert in [("own", self.own), *((f"advert/{one.name}", one) for one in self.adverts)]:
            blobs |= {f"{place}/{part}": getattr(advert, part) for part in ("sealing", "rounds", "signature")}
        arrays = {name: np.frombuffer(blob, dtype=np.uint8) for name, blob in blobs.items()}
        facts = {"terms": json.dumps(asdict(self.terms)), "name": self.own.name, "digest": self.digest}
        write_atomic(folder / _FILE, save(arrays, metadata=facts), mode=0o600)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Return the setup in `folder`, or None where there is none."""
        if not (folder / _FILE).exists():
            return None
        # What is damaged is told by the facts.
        facts = load_facts(folder / _FILE)
        blobs = {name: value.tobytes() for name, value in load_file(folder / _FILE).items()}

        def advert(place: str, name: str) -> Advert:
            return Advert(
                name=name,
                sealing=blobs[f"{place}/sealing"],
                rounds=blobs[f"{place}/rounds"],
                signature=blobs[f"{place}/signature"],
            )

        names = sorted(name.split("/")[1] for name in blobs if name.startswith("advert/") and name.endswith("/rounds"))
        return cls(
            terms=Terms(**json.loads(facts["terms"])),
            root=blobs["root"],
            own=advert("own", facts["name"]),
            adverts=tuple(advert(f"advert/{name}", name) for name in names),
            digest=facts["digest"],
            bundles={name.split("/", 1)[1]: blob for name, blob in blobs.items() if name.startswith("bundle/")},
        )

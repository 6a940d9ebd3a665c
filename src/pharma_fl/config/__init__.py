"""The two files a person writes, federation.toml and partner.toml, as validated models."""

from pharma_fl.config.base import Settings
from pharma_fl.config.deployment import SuperLinkSettings, SuperNodeSettings
from pharma_fl.config.federation import Federation, ModelSettings, PrivacySettings, TrainingSettings
from pharma_fl.config.locate import federation_file, partner_file
from pharma_fl.config.partner import Partner, PolicySettings
from pharma_fl.config.partner_keys import PartnerKeys
from pharma_fl.config.preparation import FingerprintSettings, FoldSettings, StructureSettings
from pharma_fl.config.roster import RosterEntry, RosterKeys
from pharma_fl.config.tables import AssaySettings, LongTables, TunerTables, WideTables

__all__ = [
    "AssaySettings",
    "Federation",
    "FingerprintSettings",
    "FoldSettings",
    "LongTables",
    "ModelSettings",
    "Partner",
    "PartnerKeys",
    "PolicySettings",
    "PrivacySettings",
    "RosterEntry",
    "RosterKeys",
    "Settings",
    "StructureSettings",
    "SuperLinkSettings",
    "SuperNodeSettings",
    "TrainingSettings",
    "TunerTables",
    "WideTables",
    "federation_file",
    "partner_file",
]

"""The two files a person writes, federation.toml and partner.toml, as validated models."""

from pharma_fl.config.federation import Federation, ModelSettings, PrivacySettings, TrainingSettings
from pharma_fl.config.locate import federation_file, partner_file
from pharma_fl.config.partner import FoldSettings, Partner, PolicySettings, StructureSettings, TableSettings

__all__ = [
    "Federation",
    "FoldSettings",
    "ModelSettings",
    "Partner",
    "PolicySettings",
    "PrivacySettings",
    "StructureSettings",
    "TableSettings",
    "TrainingSettings",
    "federation_file",
    "partner_file",
]

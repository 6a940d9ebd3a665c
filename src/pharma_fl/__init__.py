"""Federated, differentially private models for drug discovery, on Flower."""

__version__ = "0.1.0.dev0"

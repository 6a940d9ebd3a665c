"""Assay tables to training matrices. RDKit lives here and nowhere else."""

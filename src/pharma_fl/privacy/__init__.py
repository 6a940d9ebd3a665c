"""The private mechanism, its accountant, and the ledger and policy that the partner owns."""

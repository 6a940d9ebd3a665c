"""What the coordinator does: the strategy, the boundary for replies, checkpoints."""

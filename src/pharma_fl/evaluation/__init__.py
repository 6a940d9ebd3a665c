"""Single partner against federated: fair baselines, scores on held-out folds, and their summary."""

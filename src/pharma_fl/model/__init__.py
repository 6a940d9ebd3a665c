"""The sparse multitask network: batches, network, losses, metrics, plain training, prediction."""

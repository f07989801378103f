"""From recordings and from texts to shards of training samples (docs/data.md)."""

"""What a training of a preset holds in memory, counted before anything is loaded: which plan fits which GPUs."""

"""Third-party weights: what there is, what its licence allows, fetching, verifying and converting it."""

from more4d.weights.registry import REGISTRY, STORE, Registry, Weight, WeightFile, read_registry

__all__ = ["REGISTRY", "STORE", "Registry", "Weight", "WeightFile", "read_registry"]

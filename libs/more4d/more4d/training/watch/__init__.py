"""Seeing how a training goes: meters, the guard against what goes wrong, logs."""

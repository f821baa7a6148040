"""The networks, their shapes by name, and checkpoint folders."""

"""The program that runs inside a labeler's own environment: it imports nothing of more4d."""

"""Which clips are kept and what is said about them: source tables, shots, filters, captions, selection."""

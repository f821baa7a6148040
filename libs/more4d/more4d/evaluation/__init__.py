"""How far a result is from the truth, beside what simpler means achieve."""

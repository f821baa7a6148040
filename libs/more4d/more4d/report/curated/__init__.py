"""The page an engineer reads before training: what became of every row, why, and what the samples look like."""

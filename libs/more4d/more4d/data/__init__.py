"""What the data is and how it is kept: atomic writes, videos, tables, samples and shards."""

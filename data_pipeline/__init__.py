"""Face datasets as WebDataset shards: writing, planning, reading, decoding."""

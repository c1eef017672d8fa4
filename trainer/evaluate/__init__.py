"""How good the embeddings are: verification of pairs of faces that training never saw."""

"""How good a set of embeddings is: arrays in, numbers out."""

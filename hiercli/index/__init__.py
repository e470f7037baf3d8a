"""Exact hyperbolic search through FAISS, and the catalogue that says what each id is."""

"""Photographs and their labels: benchmarks, folders, manifests and the generated flora."""

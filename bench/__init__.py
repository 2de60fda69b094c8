"""Benchmarks: one question a file; each runs alone and prints our figure beside the anchor's."""

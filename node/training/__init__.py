"""Recipes that make the weights: data from phantoms, trainer, scores."""

"""Models as folders: cards, weights, architectures, inference, post-processing, verdict."""

"""Pages, sign-in, health and metrics."""

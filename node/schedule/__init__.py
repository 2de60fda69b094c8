"""The clock: APScheduler at the edge, small functions with the time as an argument."""

"""The commands of `limner`, grouped by what a person wants to do."""

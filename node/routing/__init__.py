"""Pure rules: when a study is settled, which series goes to which model, and why."""

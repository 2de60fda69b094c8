"""The receive path's own wire: associations, messages, and the process that takes them."""

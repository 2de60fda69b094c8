"""The wire: associations, the listener, the sender, storage commitment, the header walk."""

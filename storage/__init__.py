"""What is stored: tables, statements, objects. Imports nothing of `node`."""

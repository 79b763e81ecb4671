"""The production face: serve(), the command line, and what they need."""

"""The face of socketserver: which hooks a program overrides, and which path serves it."""

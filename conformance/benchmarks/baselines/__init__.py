"""Servers that do next to nothing, to know what the rest of the setup costs."""

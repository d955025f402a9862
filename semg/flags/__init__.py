"""Flags that more than one script must know."""

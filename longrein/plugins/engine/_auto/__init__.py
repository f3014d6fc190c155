"""How an engine is chosen."""

"""Personal data: what it looks like, what proves it, and what takes its place."""

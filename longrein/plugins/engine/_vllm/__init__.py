"""vLLM as an engine: its server process, and the HTTP between."""

"""Packages of a release: what leaves one project, signed, and is verified before another loads it."""

"""Releases compared on live traffic: which requests a new one gets, and what its answers say about it."""

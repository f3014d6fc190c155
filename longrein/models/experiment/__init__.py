"""Experiments on live traffic: who sees which release, how a rollout moves, and when there is evidence enough."""

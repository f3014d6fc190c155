"""Experiment tracking in MLflow's words over the ledger: experiments, runs, models, artifacts.

Each function here is one call of MLflow's REST API: it takes a `Call` and a request and answers with the JSON that
MLflow's clients expect. `longrein.gateway.mlflow` puts them on HTTP. Writes run in a transaction that the caller holds
open (see `longrein.models.track.writer`), so that many of them share one commit.
"""

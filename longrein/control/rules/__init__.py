"""Rules: what is done by itself when an alert fires, data change or the time has come."""

"""Finds the fastest parameters for a workload by measuring."""

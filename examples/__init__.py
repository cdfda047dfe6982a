"""Runs and environments to start from."""

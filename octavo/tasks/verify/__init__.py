"""Checking of answers, for tasks to share."""

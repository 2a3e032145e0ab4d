"""Objectives, mixing, optimizer, step, sharding, checkpoints and the loop."""

"""Cached decoding and scoring of candidates."""

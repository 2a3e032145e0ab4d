"""Datasets as HTML pages, for a person to look at: documents as they are stored, and rows as the model sees them."""

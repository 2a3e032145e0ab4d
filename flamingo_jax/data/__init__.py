"""Raw files -> documents -> examples -> batches."""

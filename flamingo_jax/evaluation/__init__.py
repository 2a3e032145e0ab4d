"""Few-shot tasks, prompts, metrics and the report."""

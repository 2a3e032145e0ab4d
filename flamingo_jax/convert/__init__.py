"""Public checkpoints -> ours: a lazy reader, rules as tables, and the families' configs."""

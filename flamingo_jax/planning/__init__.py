"""What a run would need and do on TPUs that nobody has rented yet."""

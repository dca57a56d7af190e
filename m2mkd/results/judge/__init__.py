"""What the measurements say about the claims."""

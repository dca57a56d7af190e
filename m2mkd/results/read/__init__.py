"""What finished runs published, read and checked once, and the papers' numbers."""

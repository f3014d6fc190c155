"""What answers cost and what they bring."""

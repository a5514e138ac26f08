"""Images of any size: whole, or in tiles that share their statistics."""

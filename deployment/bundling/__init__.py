"""Folders from which a device without network access builds and verifies engines."""

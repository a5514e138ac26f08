"""Folders from which a device without network builds engines and proves them."""

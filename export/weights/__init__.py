"""Read trained weights from files of any usual layout."""

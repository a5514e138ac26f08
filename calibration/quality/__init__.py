"""Photographs, artefact gates, and the ledger of the cost of each stage."""

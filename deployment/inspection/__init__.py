"""What of a network's modulators and normalizations matters to somebody who deploys it."""

"""Order: when every tile operation starts, and where every buffer lies."""

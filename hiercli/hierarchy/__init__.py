"""The discovered tree: built from hierarchical proxies and classes, drawn and written."""

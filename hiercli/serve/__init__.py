"""`hier serve`: an index behind an HTTP API, with a page to search it in a browser."""

"""`report` and the listings: results as an HTML page or Markdown table, stores and registries on the terminal."""

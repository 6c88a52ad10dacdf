"""The prose in wikitext."""

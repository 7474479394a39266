"""One HTML file that shows what was converted and what was proved."""

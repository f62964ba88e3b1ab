"""What a run looks like: its pictures, and the page that shows them."""

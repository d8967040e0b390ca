"""What is generated from the code: pages and drawings."""

"""The tests of the book's sources and of the repository around it."""

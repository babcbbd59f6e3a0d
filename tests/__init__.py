"""The tests of lmloss."""

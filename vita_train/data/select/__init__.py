"""Parts of large public tables: the best rows, evenly spaced rows, shards of a number of rows."""

"""The record of what calls did: a chained log, recordings, blobs and an index of them."""

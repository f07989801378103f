"""Samples on disk: their records, webdataset shards with an index, readers, export."""

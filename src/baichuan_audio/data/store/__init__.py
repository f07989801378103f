"""Samples, clips and codes on disk: records, webdataset shards with an index, readers, export."""

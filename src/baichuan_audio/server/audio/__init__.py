"""Audio of requests and responses: decoding, encoding, voices, speed."""

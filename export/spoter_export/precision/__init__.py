"""fp16 and int8 graphs from an fp32 graph."""

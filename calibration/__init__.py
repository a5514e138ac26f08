"""Images to ranges to lower precision. Nothing here yet: FP16 and INT8 come next."""

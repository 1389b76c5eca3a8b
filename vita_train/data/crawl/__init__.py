"""Images from the open web: lists of URLs and documents in, images and records in the same order
out."""

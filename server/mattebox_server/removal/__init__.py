"""One request, from the bytes of a photo to the bytes of its composite."""

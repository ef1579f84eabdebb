"""Search of a library of videos by sentence."""

"""Teachers: registry, checkpoint layouts, licences, and loading."""

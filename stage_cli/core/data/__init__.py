"""From folders of multitrack songs to batches of (context, target, description)."""

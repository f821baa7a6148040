"""What a clip's pixels are in three dimensions: depth, tracks, quality criteria, splat renders."""

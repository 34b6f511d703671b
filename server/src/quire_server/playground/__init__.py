"""The page at `/`: a playground for the model and a live view of the engine. Plain files, no build step."""

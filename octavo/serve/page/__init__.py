"""The web page at `/`: static files, and a model's markdown made into clean HTML."""

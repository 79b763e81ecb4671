"""``python -m fastwsgi.bench``: what wsgiref's work costs here, on the standard library and on both twins."""

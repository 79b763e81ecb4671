"""``python -m fastwsgi.bench``: compare the speed of wsgiref with both twins, our compiled and pure implementations."""

"""The forecast bench: how good forecasts are on real series, what they cost, and what others would do."""

"""The server: many requests' questions answered together by one model."""

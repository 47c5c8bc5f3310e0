"""The words everyone uses. Imports nothing of Octavo but itself: no torch, no sockets."""

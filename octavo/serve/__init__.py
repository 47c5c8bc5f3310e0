"""The server: dialects over one event stream, engines in processes of their own, many teams kept apart."""
